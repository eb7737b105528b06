"""The state file: whose cluster runs."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from looper.cluster.state import ClusterState, process_start, read_state, write_state
from looper.platform.settings import load_settings


def test_a_cluster_runs_on_when_the_machines_clock_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path, base="org/base")
    started = process_start(os.getpid())
    assert started is not None
    write_state(settings, ClusterState(pid=os.getpid(), started=started, phase="up"))
    assert read_state(settings)
    boot_time = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + 1)
    assert read_state(settings)


def test_a_later_process_with_the_same_id_is_not_the_cluster(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, base="org/base")
    write_state(settings, ClusterState(pid=os.getpid(), started=1, phase="up"))
    assert read_state(settings) is None


def test_a_process_that_has_ended_has_no_start() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None, "a zombie"
    process.communicate()
    assert process_start(process.pid) is None
