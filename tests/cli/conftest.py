"""Runs the command line as a user does, on a home folder of its own."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.both_ways import Ran, run

EPISODE = {
    "task_id": "t1",
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}],
    "success": True,
}


class Home:
    """The command line on a home folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"LOOPER_HOME": str(folder / "home")}

    def run(self, *arguments: str, **environment: str) -> Ran:
        home = self.environment["LOOPER_HOME"]
        return run(*arguments, folder=self.folder, base=None, **({"LOOPER_HOME": home} | environment))

    def ok(self, *arguments: str) -> str:
        ran = self.run(*arguments)
        assert ran.status == 0, ran.err
        return ran.out

    def refused(self, *arguments: str, **environment: str) -> str:
        """Run a command that must fail with exactly one line on standard error, and return that line."""
        ran = self.run(*arguments, **environment)
        assert ran.status == 1, ran
        (line,) = ran.err.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def episodes(tmp_path: Path) -> str:
    file = tmp_path / "monday.jsonl"
    file.write_text(json.dumps(EPISODE) + "\n")
    return str(file)
