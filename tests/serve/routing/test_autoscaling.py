import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from looper.serve.routing.autoscaling import ReplicaLoad, autoscaling_policy, required_replicas

IDLE = ReplicaLoad(asked=0, adapters=0, seats=16, slots=8)


@pytest.mark.parametrize(
    ("asked", "adapters", "replicas"),
    [(0, 0, 0), (1, 1, 1), (12, 6, 1), (13, 6, 2), (4, 7, 2), (64, 3, 5), (20, 20, 4)],
)
def test_replicas_follow_seats_or_slots_whichever_is_shorter(asked: int, adapters: int, replicas: int) -> None:
    assert required_replicas([ReplicaLoad(asked, adapters, 16, 8)], 0) == replicas


def test_what_waits_outside_counts_too() -> None:
    assert required_replicas([IDLE], 13) == 2
    assert required_replicas([], 1) == 1, "from nothing"
    assert required_replicas([], 0) == 0


def test_the_load_of_several_is_added_up() -> None:
    assert required_replicas([ReplicaLoad(12, 3, 16, 8)] * 3, 0) == 3
    assert required_replicas([ReplicaLoad(12, 3, 16, 8), IDLE, IDLE], 0) == 1


def context(**changed: Any) -> Any:
    stats = {"asked": {"r1": 40.0}, "adapters": {"r1": 3.0}, "seats": {"r1": 16.0}, "slots": {"r1": 8.0}}
    usual = {
        "aggregated_metrics": stats,
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "total_queued_requests": 0.0,
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 8,
    }
    return SimpleNamespace(**usual | changed)


def test_the_policy_stays_within_its_bounds() -> None:
    assert autoscaling_policy(context()) == (4, {})
    assert autoscaling_policy(context(capacity_adjusted_max_replicas=3)) == (3, {})
    assert autoscaling_policy(context(capacity_adjusted_min_replicas=5)) == (5, {})


def test_a_replica_that_has_not_reported_yet_is_not_taken_for_idle() -> None:
    assert autoscaling_policy(context(aggregated_metrics={}, target_num_replicas=2)) == (2, {})
    assert autoscaling_policy(context(aggregated_metrics=None, current_num_replicas=0, total_queued_requests=3.0)) == (
        1,
        {},
    )


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_engines_come_from_nothing_by_load_and_go_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.from_zero", str(tmp_path)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True, check=True)
    # Ray prints there, too.
    report = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("{")))
    print(report)
    assert report["engines_at_first"] == 0
    assert report["under_load"].keys() == {"answered"}
    assert report["same_answer"]
