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

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "looper", *arguments],
            cwd=self.folder,
            env=os.environ | {"LOOPER_HOME": str(self.folder / "home")} | environment,
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


def test_from_tenant_to_queued_consolidation(home: Home, episodes: str) -> None:
    key = json.loads(home.ok("tenant", "create", "acme", "--json"))["key"]
    assert key.startswith("looper_")
    report = json.loads(home.ok("ingest", episodes, "--instance", "acme/desk", "--json"))
    assert report == {
        "files": [
            {"path": episodes, "format": "openai_chat", "trajectories": 1, "kept": 1, "rejected": 0, "reasons": {}},
        ]
    }
    assert json.loads(home.ok("instance", "list", "--json"))[0]["trajectories"] == 1
    assert "nobody works the queue: looper up" in home.ok("consolidate", "acme/desk", "--rank", "8")
    (job,) = json.loads(home.ok("jobs", "list", "--json"))
    assert (job["state"], job["recipe"]["rank"]) == ("queued", 8)
    assert "queued" in home.ok("jobs", "show", job["id"])
    home.ok("jobs", "cancel", job["id"])
    assert "cancelled" in home.ok("jobs", "logs", job["id"])
    assert json.loads(home.ok("status", "--json"))["consolidations"] == {"cancelled": 1}


def test_mistakes_are_one_line_that_names_the_thing_and_the_way_out(home: Home, episodes: str, tmp_path: Path) -> None:
    assert "tenant acme does not exist: looper tenant create acme" in home.refused(
        "ingest", episodes, "--instance", "acme/desk"
    )
    home.ok("tenant", "create", "acme")
    assert "'..' is not a valid name" in home.refused("ingest", episodes, "--instance", "../x")
    assert "'a/b/c' is not of the form tenant/instance" in home.refused("ingest", episodes, "--instance", "a/b/c")
    assert "instance acme/nobody does not exist" in home.refused("consolidate", "acme/nobody")
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    assert "the known ones are openai_chat, tau_bench" in home.refused("ingest", str(notes), "--instance", "acme/desk")
    home.ok("ingest", episodes, "--instance", "acme/desk")
    assert "rank 64 is above serve.max_lora_rank 16" in home.refused("consolidate", "acme/desk", "--rank", "64")
    assert "--epochs 0: Input should be greater" in home.refused("consolidate", "acme/desk", "--epochs", "0")
    assert "no version" in home.refused("skills", "promote", "acme/desk", "abc")
    assert "no cluster is up: looper up" in home.refused("chat", "acme/desk", "hello")
    assert "setting serve.port = 'x'" in home.refused("tenant", "list", LOOPER_SERVE__PORT="x")


def test_an_empty_home_says_what_to_do_first(home: Home) -> None:
    assert "looper tenant create NAME" in home.ok("tenant", "list")
    assert "looper ingest PATH" in home.ok("instance", "list")
    assert "looper consolidate" in home.ok("jobs", "list")
    assert "looper up" in home.ok("status")
    assert "no cluster was up" in home.ok("down")
