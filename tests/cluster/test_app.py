"""The builder that all ways up share."""

from typing import Any

import pytest

from looper.cluster import app, local_ray
from looper.cluster.cluster_reporter import GPU_GROUP_NAME
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings, load_settings
from looper.platform.settings.gpu_plan import GpuPlan


def test_the_builder_waits_for_nodes_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """KubeRay deploys as soon as the head runs, and never again unless the config changes."""
    answers: list[GpuPlan | InvalidInput] = [
        InvalidInput("the cluster has 0"),
        *[InvalidInput("has 1")] * 2,
        GpuPlan(1, 1),
    ]

    def plan_cluster(_: Settings) -> GpuPlan:
        answer = answers.pop(0)
        if isinstance(answer, InvalidInput):
            raise answer
        return answer

    groups: list[Any] = []
    monkeypatch.setattr(app, "plan_cluster", plan_cluster)
    monkeypatch.setattr(app.ray, "nodes", list)
    monkeypatch.setattr(app, "placement_group", lambda bundles, name: groups.append(bundles) or name)
    monkeypatch.setattr(app, "remove_placement_group", groups.append)
    monkeypatch.setattr(app, "GPU_POLL_INTERVAL_S", 0)
    with pytest.raises(InvalidInput, match="the cluster has 0"):
        app._wait_for_gpus(load_settings(), 0)
    assert groups == [], "nothing is asked for if nobody waits"
    settings = load_settings(serve={"replicas": 0, "max_replicas": 4, "accelerator_type": "L4"})
    assert app._wait_for_gpus(settings, 60) == GpuPlan(1, 1)
    assert answers == []
    assert groups == [[{"GPU": 1, "accelerator_type:L4": 0.001}], GPU_GROUP_NAME], "asked for, and then no more"


def test_a_private_ray_has_room_for_trainers_and_tasks_beside_all_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    bases = [{"base": "two", "serve": {"replicas": 2}}, {"base": "three"}]
    engines = load_settings(base="one", bases=bases).max_engines
    for cores, count in ((1, engines + 2), (2, engines + 2), (16, 17)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert local_ray.count_cpus(engines) == count
    assert engines == 4
