"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.planted_secrets import FOLDERS, find_secrets, read_logs
from tests.ray_local import ray_local

if TYPE_CHECKING:
    from tests.serve.live import LiveServer

__all__ = ["live", "ray_local"]

os.environ["LOOPER_CONFIG"] = os.devnull  # a settings file of whoever runs the tests decides nothing

SECRETS: list[str] = []
"""The secrets that were found in the logs, by the worker processes of ``pytest -n 2`` too."""


def group_of(file: str) -> str:
    """Return which tests run in one process of ``pytest -n 2``: those of a file, or all that start a whole cluster."""
    text = Path(file).read_text()
    return "cluster" if "live: LiveServer" in text or "run_chaos" in text else file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, run the longest group first, so that they end at about the same time."""
    if not hasattr(config, "workerinput"):
        return
    files = {item.nodeid.partition("::")[0] for item in items}
    groups = {file: group_of(file) for file in files}
    items.sort(key=lambda item: groups[item.nodeid.partition("::")[0]] != "cluster")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Start whole clusters in one process only, one after the other."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return GroupScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker process has found."""
    SECRETS.extend(node.workeroutput.get("secrets", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if a secret that a test planted is in a log of it."""
    SECRETS.extend(find_secrets(read_logs(FOLDERS)))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["secrets"] = SECRETS
    elif SECRETS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.section("secrets in logs", red=True)
            for line in SECRETS:
                reporter.line(line)


@pytest.fixture(scope="session")
def live(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The one real server of a test session."""
    from tests.serve.live import run_server  # torch takes seconds that most tests need not wait for

    with run_server(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture(scope="session")
def one_process() -> Iterator[None]:
    """torch.distributed with this process alone, as Ray Train sets it up in a worker. DeepSpeed keeps the first one.

    On one thread: OpenMP's threads spin while they wait, which is slow for tiny models on a machine that is busy.
    """
    import torch

    from looper.jobs.consolidation.training.single_process_group import single_process_group

    torch.set_num_threads(1)
    with single_process_group():
        yield
