"""Processes are waited for and killed, and those that nobody collects do not count as running."""

import subprocess
import sys
import time

import psutil
import pytest

from looper.cluster.processes import kill_remaining

ABANDON = """
import os, sys
if os.fork() == 0:
    os._exit(0)
sys.stdin.read()
"""
"""A process that does not collect its child, which has ended."""


def test_a_zombie_is_not_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", ABANDON], stdin=subprocess.PIPE) as parent:
        while not (children := psutil.Process(parent.pid).children()):
            assert parent.poll() is None
        (zombie,) = children
        while zombie.status() != psutil.STATUS_ZOMBIE:
            assert zombie.is_running()
        started = time.monotonic()
        kill_remaining([zombie], timeout_s=30)
        assert time.monotonic() - started < 15
        parent.communicate()


@pytest.mark.parametrize("program", ["import sys; sys.stdin.read()", "import signal; signal.pause()"])
def test_what_runs_on_is_killed(program: str) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        kill_remaining([psutil.Process(process.pid)], timeout_s=0.5)
        assert process.wait(timeout=10) is not None
