"""The autoscaling policy as plain numbers, and from zero replicas on a real cluster."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from looper.serve.routing.autoscaling import ReplicaLoad, autoscaling_policy, required_replicas

IDLE = ReplicaLoad(sequences=0, adapters=0, max_num_seqs=16, slots=8)


@pytest.mark.parametrize(
    ("sequences", "adapters", "replicas"),
    [(0, 0, 0), (1, 1, 1), (12, 6, 1), (13, 6, 2), (4, 7, 2), (64, 3, 5), (20, 20, 4)],
)
def test_replicas_follow_sequences_or_slots_whichever_need_more(sequences: int, adapters: int, replicas: int) -> None:
    assert required_replicas([ReplicaLoad(sequences, adapters, 16, 8)], 0) == replicas


def test_requests_that_no_replica_has_received_count_too() -> None:
    assert required_replicas([IDLE], 13) == 2
    assert required_replicas([], 1) == 1, "from zero replicas"
    assert required_replicas([], 0) == 0


def test_the_loads_of_several_replicas_are_added() -> None:
    assert required_replicas([ReplicaLoad(12, 3, 16, 8)] * 3, 0) == 3
    assert required_replicas([ReplicaLoad(12, 3, 16, 8), IDLE, IDLE], 0) == 1


def context(**changes: Any) -> Any:
    stats = {"sequences": {"r1": 40.0}, "adapters": {"r1": 3.0}, "max_num_seqs": {"r1": 16.0}, "slots": {"r1": 8.0}}
    defaults = {
        "aggregated_metrics": stats,
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "total_queued_requests": 0.0,
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 8,
    }
    return SimpleNamespace(**defaults | changes)


def test_the_policy_respects_its_limits() -> None:
    assert autoscaling_policy(context()) == (4, {})
    assert autoscaling_policy(context(capacity_adjusted_max_replicas=3)) == (3, {})
    assert autoscaling_policy(context(capacity_adjusted_min_replicas=5)) == (5, {})


def test_a_replica_that_has_not_reported_yet_does_not_count_as_idle() -> None:
    assert autoscaling_policy(context(aggregated_metrics={}, target_num_replicas=2)) == (2, {})
    assert autoscaling_policy(context(aggregated_metrics=None, current_num_replicas=0, total_queued_requests=3.0)) == (
        1,
        {},
    )


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_engines_start_from_zero_under_load_and_stop_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.from_zero", str(tmp_path)]
    process = subprocess.run(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True, check=True)
    # Ray writes to standard output too.
    report = json.loads(next(line for line in process.stdout.splitlines() if line.startswith("{")))
    print(report)
    assert report["engines_at_start"] == 0
    assert report["under_load"].keys() == {"completed"}
    assert report["same_response"]
