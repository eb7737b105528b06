"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.planted_secrets import FOLDERS, find_secrets, read_logs
from tests.ray_local import ray_local

if TYPE_CHECKING:
    from tests.serve.live import LiveServer

__all__ = ["live", "ray_local"]

os.environ["LOOPER_CONFIG"] = os.devnull  # a settings file of whoever runs the tests decides nothing


SECRETS: list[str] = []
"""What worker processes of ``make test`` have found in their logs."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the tests out over the processes of ``make test``: heavy things first, each started in one process only."""

    def group(item: pytest.Item) -> str:
        file = item.nodeid.partition("::")[0]
        return "live" if "live" in getattr(item, "fixturenames", ()) else file

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    first = {"tests/chaos/test_chaos.py": 0, "live": 1}
    items.sort(key=lambda item: first.get(group(item), len(first)))


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
