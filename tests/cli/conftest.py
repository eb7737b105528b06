"""The command line as a person runs it, in processes of its own."""

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
    """A fresh home, and the command line on it."""

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
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str, **environment: str) -> str:
        """The one line on standard error of a command that must fail, without a traceback."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 1, done
        (line,) = done.stderr.splitlines()
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
