"""Runs the command line as a user does, each command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "looper", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        completed = self.run(*arguments)
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    def refused(self, *arguments: str, **environment: str) -> str:
        """Run a command that must fail with exactly one line on standard error, and return that line."""
        completed = self.run(*arguments, **environment)
        assert completed.returncode == 1, completed
        (line,) = completed.stderr.splitlines()
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
