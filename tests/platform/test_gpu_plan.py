"""GPUs are divided between engines and trainers."""

from typing import Any

import pytest

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from looper.platform.settings.gpu_plan import (
    GpuPlan,
    count_by_type,
    missing_gpus,
    plan_for_training,
    plan_gpus,
    require_type,
)


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "plan"),
    [
        (0, {}, {}, GpuPlan(0, 0)),
        (1, {}, {}, GpuPlan(0.5, 0.5)),
        (2, {}, {}, GpuPlan(1, 1)),
        (2, {"replicas": 2}, {}, GpuPlan(0.5, 0.5)),
        (3, {"engine": {"tensor_parallel_size": 2}}, {}, GpuPlan(1, 1)),
        (8, {"replicas": 4, "pools": [{"max_lora_rank": 64, "replicas": 2}]}, {"num_workers": 2}, GpuPlan(1, 1)),
    ],
)
def test_there_are_whole_gpus_if_there_are_enough(gpus: float, serve: Any, training: Any, plan: GpuPlan) -> None:
    assert plan_gpus({"": gpus}, load_settings(serve=serve, consolidation=training)) == plan


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "message"),
    [
        (1, {"replicas": 2}, {}, "the engines need 2 GPUs, and the cluster has 1: lower serve.replicas"),
        (1, {"engine": {"pipeline_parallel_size": 2}}, {}, "the engines need 2 GPUs"),
        (1, {}, {"num_workers": 2}, "engines and trainers need 3 GPUs, and the cluster has 1: lower consolidation"),
        (1, {}, {"max_trainers": 2}, "engines and trainers need 3 GPUs"),
    ],
)
def test_too_few_gpus_are_refused_by_name(gpus: float, serve: Any, training: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan_gpus({"": gpus}, load_settings(serve=serve, consolidation=training))


A100, L4, MIXED = {"accelerator_type": "A100"}, {"accelerator_type": "L4"}, {"A100": 1.0, "L4": 1.0}
TWO_POOLS = {**A100, "pools": [{"max_lora_rank": 64, **L4}]}


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "plan"),
    [
        (MIXED, A100, L4, GpuPlan(1, 1)),
        (MIXED, A100, A100, GpuPlan(0.5, 0.5)),
        (MIXED, TWO_POOLS, L4, GpuPlan(0.5, 0.5, frozenset({"A100"}))),
        (MIXED, TWO_POOLS, {}, GpuPlan(0.5, 0.5)),  # a trainer may be on either
        (MIXED, {}, L4, GpuPlan(0.5, 0.5)),  # so may the engine
    ],
)
def test_pools_and_trainers_of_other_types_are_no_rivals(
    gpus: dict[str, float], serve: Any, training: Any, plan: GpuPlan
) -> None:
    assert plan_gpus(gpus, load_settings(serve=serve, consolidation=training)) == plan


@pytest.mark.parametrize(
    ("gpus", "serve", "training", "message"),
    [
        (MIXED, {"accelerator_type": "H100"}, {}, r"_type is 'H100', and the cluster has 2 \(1 A100, 1 L4\): name"),
        ({"A100": 1.0}, {}, L4, r"accelerator_type is 'L4', and the cluster has 1 \(1 A100\): name a type"),
        ({}, A100, {}, "accelerator_type is 'A100', and the cluster has 0: name"),
        (MIXED, {**A100, "replicas": 2}, {}, r"the engines need 2 GPUs of type A100, and the cluster has 2 \(1 A100"),
        (MIXED, {}, {**L4, "max_trainers": 2}, r"engines and trainers need 3 GPUs of type L4, and the cluster has 2"),
    ],
)
def test_a_type_that_is_short_is_refused_by_name(
    gpus: dict[str, float], serve: Any, training: Any, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan_gpus(gpus, load_settings(serve=serve, consolidation=training))


def test_gpus_are_counted_by_type_on_nodes_that_live() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A100": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:A100": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": False, "Resources": {"GPU": 1.0, "accelerator_type:L4": 1.0}},
    ]
    assert count_by_type(nodes) == {"A100": 3, "": 4}


@pytest.mark.parametrize("name", ["", "A100, L4", "a" * 65, "../A100", "A100\n"])
def test_a_type_is_a_short_word(name: str) -> None:
    with pytest.raises(InvalidInput, match="accelerator_type"):
        load_settings(serve={"accelerator_type": name})


def test_the_plan_is_told_in_words() -> None:
    assert str(GpuPlan(0.5, 0.5)).startswith("engines and trainers share GPUs: 50% of each for an engine")
    assert str(GpuPlan(0.5, 0.5, frozenset({"L4"}))).endswith("; engines on L4 have whole ones")
    assert "of their own" in str(GpuPlan(1, 1))
    assert "no GPU" in str(GpuPlan(0, 0))


@pytest.mark.parametrize(
    ("gpus", "serve", "missing"),
    [
        ({}, {"replicas": 2}, []),  # it may be a cluster of CPUs
        ({"L4": 1.0}, {"replicas": 2}, [(1, None, "looper_engines")]),
        ({}, {"replicas": 0, "max_replicas": 3, "accelerator_type": "L4"}, [(1, "L4", "looper_engines")]),
        ({"L4": 1.0}, {"replicas": 0, "max_replicas": 3, "accelerator_type": "L4"}, []),
        ({"A100": 8.0}, {"replicas": 2, "accelerator_type": "L4"}, [(2, "L4", "looper_engines")]),
        ({"L4": 1.0}, {"accelerator_type": "L4", "engine": {"tensor_parallel_size": 4}}, [(3, "L4", "looper_engines")]),
    ],
)
def test_what_is_missing_is_asked_for_with_its_type_and_role(
    gpus: dict[str, float], serve: Any, missing: list[tuple[int, str | None, str]]
) -> None:
    settings = load_settings(serve=serve, roles={"engines": "looper_engines"})
    assert missing_gpus(gpus, settings) == [
        {"GPU": 1, **require_type(accelerator_type), role: 0.001}
        for count, accelerator_type, role in missing
        for _ in range(count)
    ]


def test_trainers_come_with_the_role_of_trainers() -> None:
    settings = load_settings(
        serve={"accelerator_type": "L4"},
        consolidation={"accelerator_type": "L4", "num_workers": 2},
        roles={"trainers": "looper_trainers"},
    )
    trainer = {"GPU": 1, "accelerator_type:L4": 0.001, "looper_trainers": 0.001}
    assert missing_gpus({"L4": 2.0}, settings) == [trainer]
    assert missing_gpus({"L4": 3.0}, settings) == []


def test_trainers_are_planned_the_same_while_idle_nodes_are_away() -> None:
    settings = load_settings(
        serve={"replicas": 0, "max_replicas": 3, "accelerator_type": "L4"},
        consolidation={"accelerator_type": "A100"},
    )
    with pytest.raises(InvalidInput, match="accelerator_type is"):
        plan_gpus({"A100": 1.0}, settings)
    for there in ({"A100": 1.0}, {"L4": 1.0}, {}):
        assert plan_for_training(there, settings) == GpuPlan(1, 1)
    assert plan_for_training({}, load_settings()) == GpuPlan(0, 0), "a cluster of CPUs"
    shared = load_settings(serve={"accelerator_type": "L4"}, consolidation={"accelerator_type": "L4"})
    assert plan_for_training({"L4": 1.0}, shared) == GpuPlan(0.5, 0.5), "what can be divided is not waited for"
