"""Some minutes of chaos: nothing wrong, lost or doubled. ``make chaos`` runs it for an hour."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.run import run_chaos
from tests.chaos.schedule import plan_faults

MINUTES = 5.0
"""How long faults happen. The cluster's start and the last consolidations take a minute or two more."""

SEED = 7


def test_a_seed_replays_its_schedule() -> None:
    names = ["a", "b", "c"]
    plan = plan_faults(1, names, 7)
    assert plan == plan_faults(1, names, 7) != plan_faults(2, names, 7)
    assert {fault.name for fault in plan[:3]} == set(names)


@pytest.mark.timeout(1200)
def test_a_cluster_survives_some_minutes_of_chaos() -> None:
    with TemporaryDirectory(prefix="looper-chaos-") as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL runs as another user
        result = run_chaos(Path(temporary, "run"), SEED, MINUTES, print)
    assert result.errors == []
    assert result.answered
    assert result.consolidations
