"""Commands on a new home folder: results, and messages for mistakes."""

import json
from pathlib import Path

from tests.cli.conftest import Home


def test_create_a_tenant_ingest_consolidate_and_cancel(home: Home, episodes: str) -> None:
    key = json.loads(home.ok("tenant", "create", "acme", "--json"))["key"]
    assert key.startswith("looper_")
    report = json.loads(home.ok("ingest", episodes, "--instance", "acme/desk", "--json"))
    assert report == {
        "files": [
            {"path": episodes, "format": "openai_chat", "trajectories": 1, "kept": 1, "rejected": 0, "reasons": {}},
        ]
    }
    assert json.loads(home.ok("instance", "list", "--json"))[0]["trajectories"] == 1
    assert "no cluster is running to work on it: looper up" in home.ok(
        "consolidate", "acme/desk", "--rank", "8", "--priority", "-2"
    )
    (job,) = json.loads(home.ok("jobs", "list", "--json"))
    assert (job["state"], job["recipe"]["rank"], job["priority"]) == ("queued", 8, -2)
    assert "queued" in home.ok("jobs", "show", job["id"])
    home.ok("jobs", "cancel", job["id"])
    assert "cancelled" in home.ok("jobs", "logs", job["id"])
    assert json.loads(home.ok("status", "--json"))["consolidations"] == {"cancelled": 1}


def test_a_mistake_prints_one_line_with_what_is_wrong_and_what_to_do(home: Home, episodes: str, tmp_path: Path) -> None:
    assert "tenant acme does not exist: looper tenant create acme" in home.refused(
        "ingest", episodes, "--instance", "acme/desk"
    )
    home.ok("tenant", "create", "acme")
    assert "'..' is not a valid name" in home.refused("ingest", episodes, "--instance", "../x")
    assert "'a/b/c' does not have the form tenant/instance" in home.refused("ingest", episodes, "--instance", "a/b/c")
    assert "instance acme/nobody does not exist" in home.refused("consolidate", "acme/nobody")
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    assert "the formats are openai_chat, tau_bench" in home.refused("ingest", str(notes), "--instance", "acme/desk")
    home.ok("ingest", episodes, "--instance", "acme/desk")
    assert "rank 64 is above serve.max_lora_rank 16" in home.refused("consolidate", "acme/desk", "--rank", "64")
    assert "--epochs 0: Input should be greater" in home.refused("consolidate", "acme/desk", "--epochs", "0")
    assert "priority 11 is not from -10 to 10" in home.refused("consolidate", "acme/desk", "--priority", "11")
    assert "no version" in home.refused("skills", "promote", "acme/desk", "abc")
    assert "no cluster is running: looper up" in home.refused("chat", "acme/desk", "hello")
    assert "setting serve.port = 'x'" in home.refused("tenant", "list", LOOPER_SERVE__PORT="x")


def test_commands_on_an_empty_home_say_what_to_do_first(home: Home) -> None:
    assert "looper tenant create NAME" in home.ok("tenant", "list")
    assert "looper ingest PATH" in home.ok("instance", "list")
    assert "looper consolidate" in home.ok("jobs", "list")
    assert "looper up" in home.ok("status")
    assert "no cluster was running" in home.ok("down")
