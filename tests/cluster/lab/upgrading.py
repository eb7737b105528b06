"""What the tests of upgrades share: releases in folders, a load that goes on, and consolidations that take a while."""

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab.deployed import SMALL_ENGINES
from tests.cluster.lab.machine import CHECKOUT, Command
from tests.cluster.lab.node import Node

ROOMS = ("looper", "platform", "basemodel", "jobs", "serve", "cluster", "benchmarks")
SETTINGS = {
    **SMALL_ENGINES,
    "LOOPER_CONSOLIDATION__CHECKPOINT_INTERVAL_S": "1",
}
"""Settings that fit a small machine."""


def unpack_release(commit: str, folder: Path) -> None:
    """Put Looper of a commit into a folder. Without the repository's history, the test is skipped."""
    command = ["git", "-C", CHECKOUT, "archive", commit, *ROOMS]
    found = subprocess.run(command, capture_output=True)
    if found.returncode:
        pytest.skip(f"commit {commit} is not in the history here")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="tar")


def make_next_release(folder: Path) -> None:
    """Put this Looper into a folder as a release of another version."""
    for room in ROOMS:
        shutil.copytree(CHECKOUT / room, folder / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "serve/next_release.py").write_text('"""This release has one more module."""\n')
    metadata = folder / "looper_skills-9.9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: looper-skills\nVersion: 9.9.9\n")
    # vLLM finds Looper's plugins there.
    (metadata / "entry_points.txt").write_text(distribution("looper-skills").read_text("entry_points.txt") or "")


class SteadyLoad:
    """A load that a node sends. It follows ``aim``."""

    def __init__(self, node: Node, url: str, threads: int = 2) -> None:
        """Start the load, which a node sends to a URL."""
        self._home, self._threads = node.folder / "home", threads
        (self._home / "target").write_text(url)
        self._command: Command = node.start(["python", "-m", "tests.cluster.lab.steady_load", str(threads)])
        self._wait_until_at(url)

    def aim(self, url: str) -> None:
        """Send new requests to another URL, as a load balancer does, and wait until the others have ended."""
        partial = self._home / "target.partial"
        partial.write_text(url)
        partial.replace(self._home / "target")
        self._wait_until_at(url)

    def _wait_until_at(self, url: str) -> None:
        waiting = [self._home / f"at-{number}" for number in range(self._threads)]
        while waiting:
            assert self._command.poll() is None, self._command.read()[-3000:]
            time.sleep(0.1)
            waiting = [file for file in waiting if not file.exists() or file.read_text() != url]

    def stop(self) -> dict[str, Any]:
        """End the load, and return what became of the requests."""
        (self._home / "stop").touch()
        assert self._command.wait(400) == 0, self._command.read()[-3000:]
        return dict(json.loads(self._command.out.read_text().strip().splitlines()[-1]))


def wait_for_state(node: Node, environment: Mapping[str, str], state: str, seconds: float) -> None:
    """Wait until a consolidation is in a state, or all have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = json.loads(
            node.run(["python", "-m", "looper", "jobs", "list", "--json"], environment=environment).stdout
        )
        states = [job["state"] for job in found]
        if state in states or not set(states) - {"published", "rejected", "failed", "cancelled"}:
            return
        time.sleep(1)
    raise AssertionError(f"no consolidation came to {state}: {states}")
