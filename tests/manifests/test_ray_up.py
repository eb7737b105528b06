"""The files of ``ray up``: Ray takes them, and a typo is found."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from tests.manifests.checks import RAY_UP, ROLE_RESOURCES, ManifestError, check_ray_up

AWS, MACHINES = RAY_UP


@pytest.mark.parametrize("file", RAY_UP, ids=lambda file: file.name)
def test_ray_takes_it_and_its_nodes_have_rays_environment(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    check_ray_up(config)
    (command,) = (each for each in config["setup_commands"] if "looper-ray.env" in each)
    assert dict(re.findall(r"(RAY_\w+)=(\S+)", command)) == RAY_ENVIRONMENT
    for start in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert start.index(". ~/looper-ray.env") < start.index("unset OMP_NUM_THREADS") < start.index("ray start")


def test_some_type_of_node_has_each_role_and_the_head_has_no_work() -> None:
    nodes = yaml.safe_load(AWS.read_text())["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    offered = {name for node in nodes.values() for name in node["resources"]}
    assert set(ROLE_RESOURCES) <= offered


@pytest.mark.parametrize(
    ("file", "right", "wrong", "expected"),
    [
        (AWS, "idle_timeout_minutes: 5", "idle_timeout_minute: 5", "idle_timeout_minute"),
        (AWS, "head_node_type: head", "head_node_type: haed", "haed|head_node_type"),
        (AWS, "    min_workers: 1", "    min_worker: 1", "min_worker"),
        (AWS, "looper_engines: 1000", "looper_engine: 1000", "looper_engine"),
        (AWS, "setup_commands:", "setup_comands:", "setup_comands"),
        (MACHINES, "file_mounts:", "file_mount:", "file_mount"),
        (MACHINES, "head_start_ray_commands:", "head_start_commands:", "head_start_commands"),
    ],
)
def test_a_typo_is_found(file: Path, right: str, wrong: str, expected: str) -> None:
    text = file.read_text()
    assert right in text
    config: dict[str, Any] = yaml.safe_load(text.replace(right, wrong))
    with pytest.raises(ManifestError, match=expected):
        check_ray_up(config)
