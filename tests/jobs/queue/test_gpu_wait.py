"""A consolidation whose trainer Ray cannot place says what it waits for, and since when."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.training_run import TrainingRun
from looper.jobs.queue import trainers
from looper.jobs.queue.gpu_wait import describe_gpu_wait
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.jobs.episodes import episode, submit

NODES = [
    {"NodeID": "large", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0}},
    {"NodeID": "small", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}},
    {"NodeID": "gone", "Alive": False, "Resources": {"GPU": 8.0, "accelerator_type:L4": 1.0}},
]


def group(state: str, node: str | None, gpus: float, name: str = "") -> dict[str, Any]:
    return {"state": state, "name": name, "bundles": {0: {"CPU": 0.1, "GPU": gpus}}, "bundles_to_node_id": {0: node}}


def scaling(**more: Any) -> ScalingConfig:
    return ScalingConfig(use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1.0}, **more)


ENGINE = "SERVE_REPLICA::looper#skills-r16#abc"
WAITING = group("PENDING", None, 1.0)


@pytest.mark.parametrize(
    ("asks", "groups", "text"),
    [
        (
            scaling(num_workers=1),
            [WAITING, group("CREATED", "large", 1.0, ENGINE), group("CREATED", "small", 1.0)],
            "1 GPU: engines have 1 of 3, others 1",
        ),
        (
            scaling(num_workers=2, accelerator_type="L4"),
            [WAITING, group("CREATED", "large", 1.0, ENGINE), group("CREATED", "small", 0.5, ENGINE)],
            "2 GPUs of type L4: engines have 0.5 of 1, others 0",
        ),
        (
            scaling(num_workers=(1, 4)),
            [group("CREATED", "large", 1.0, ENGINE), WAITING],
            "1 GPU: engines have 1 of 3, others 0",
        ),
        (scaling(num_workers=1), [group("CREATED", "small", 1.0)], None),
        (scaling(num_workers=1), [group("PENDING", None, 1.0, ENGINE)], None),
        (scaling(num_workers=1), [group("PENDING", None, 0.0)], None),
    ],
)
def test_gpus_and_who_has_them(asks: ScalingConfig, groups: list[dict[str, Any]], text: str | None) -> None:
    assert describe_gpu_wait(asks, groups, NODES) == text


@pytest.fixture
def pool(
    catalog: Catalog, store: ObjectStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> trainers.TrainerPool:
    """A pool for whose trainers Ray is expected to find places at once. One consolidation waits for training."""
    monkeypatch.setattr(trainers, "EXPECTED_START", timedelta(0))
    monkeypatch.setattr(trainers, "RESTART_DELAY_S", 0)
    submit(catalog, store, "acme/red", [episode(1)], base=settings.base)
    [job] = catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    return trainers.TrainerPool(
        catalog, store, settings, {settings.base: BaseModelSource(tmp_path)}, "queue", lambda: False
    )


def test_trainers_are_of_one_base_model_each_with_its_own_limits(
    catalog: Catalog, store: ObjectStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = ({"base": "two", "consolidation": {"max_trainers": 2, "cohort_size": 1}}, {"base": "idle"})
    settings = Settings.model_validate(settings.model_dump() | {"bases": further})
    for base, names in ((settings.base, "abc"), ("two", "defg"), ("gone", "h")):
        for name in names:
            submit(catalog, store, f"acme/{name}", [episode(1)], base=base)
    runs, ended = list[TrainingRun](), threading.Event()

    def run_training(run: TrainingRun, _: Callable[[], bool]) -> None:
        runs.append(run)
        assert ended.wait(60)

    monkeypatch.setattr(trainers, "run_training", run_training)
    bases = {name: BaseModelSource(tmp_path / str(number)) for number, name in enumerate(settings.base_names)}
    pool = trainers.TrainerPool(catalog, store, settings, bases, "queue", lambda: False)
    for _ in range(4):
        pool.start_missing()
    assert sorted(record.base for record in catalog.list_trainers()) == sorted([settings.base, "two", "two"])
    ended.set()
    pool.join()
    assert all(run.base == bases[run.settings.base] for run in runs)
    assert {run.settings.base: run.settings.consolidation.cohort_size for run in runs} == {settings.base: 16, "two": 1}


def reason_of_waiting(catalog: Catalog) -> str:
    [job] = catalog.list_unfinished()
    return job.reason or ""


def test_a_trainer_without_a_place_explains_itself(
    pool: trainers.TrainerPool, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, waits = threading.Event(), iter(["1 GPU: engines have 1 of 1, others 0", None])

    def run_training(run: TrainingRun, _: Callable[[], bool]) -> None:
        assert placed.wait(60)

    monkeypatch.setattr(trainers, "run_training", run_training)
    monkeypatch.setattr(trainers, "describe_training_wait", lambda _: next(waits))
    pool.start_missing()
    pool.start_missing()
    assert reason_of_waiting(catalog).startswith("waits since 20")
    assert reason_of_waiting(catalog).endswith(" UTC for 1 GPU: engines have 1 of 1, others 0")
    pool.start_missing()
    assert reason_of_waiting(catalog) == "", "Ray has placed it"
    placed.set()
    pool.join()


def test_a_cluster_that_has_lost_its_gpus_explains_itself(
    pool: trainers.TrainerPool, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_training(run: TrainingRun, _: Callable[[], bool]) -> None:
        raise InvalidInput("the engines need 2 GPUs, and the cluster has 1")

    monkeypatch.setattr(trainers, "run_training", run_training)
    pool.start_missing()
    pool.join()
    assert reason_of_waiting(catalog) == "waits for GPUs: the engines need 2 GPUs, and the cluster has 1"
