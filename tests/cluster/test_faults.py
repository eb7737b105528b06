"""Nodes of a cluster die, are drained, stand still and are cut off, under load."""

from pathlib import Path

import pytest

from tests.cluster.faults.__main__ import run_faults
from tests.cluster.faults.scenario import FAULTS

pytestmark = pytest.mark.bench


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_node_passes_over(tmp_path: Path, fault: str) -> None:
    run = run_faults(tmp_path, [fault], "tested")
    assert run.find_misses() == [], run.faults
