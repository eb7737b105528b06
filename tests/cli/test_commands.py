"""Commands on a new home folder: results, and messages for mistakes."""

import json
import os
import sqlite3
from pathlib import Path

from looper.platform.catalog import Catalog
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import load_settings
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


def test_one_empty_instance_does_not_keep_the_others_from_being_queued(home: Home, episodes: str) -> None:
    home.ok("tenant", "create", "acme")
    home.ok("ingest", episodes, "--instance", "acme/desk")
    home.ok("consolidate", "acme/desk")
    job = json.loads(home.ok("jobs", "list", "--json"))[0]
    home.ok("jobs", "cancel", job["id"])
    completed = home.run("consolidate", "acme/desk", "acme/nobody", "--json")
    assert completed.status == 1
    (line,) = completed.err.splitlines()
    assert line == "error: instance acme/nobody does not exist: looper ingest PATH --instance acme/nobody"
    assert [job["state"] for job in json.loads(completed.out)] == ["queued"]
    assert json.loads(home.ok("status", "--json"))["consolidations"] == {"cancelled": 1, "queued": 1}


def test_the_status_says_what_consolidations_wait_for(home: Home, episodes: str) -> None:
    home.ok("tenant", "create", "acme")
    home.ok("ingest", episodes, "--instance", "acme/desk")
    home.ok("consolidate", "acme/desk")
    catalog = Catalog.open(load_settings(home=home.folder / "home"))
    [job] = catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    reason = "waits since 2026-11-29 21:14:02 UTC for 1 GPU: engines have 1 of 1, others 0"
    catalog.explain_wait(reason, base=job.base, shape=TrainerShape.PLAIN)
    catalog.close()
    assert json.loads(home.ok("status", "--json"))["waits"] == {reason: 1}
    assert f"1 of them {reason}" in home.ok("status")
    assert reason in home.ok("jobs", "show", job.id)


def test_what_the_machine_lacks_is_said_in_one_line(home: Home, episodes: str, tmp_path: Path) -> None:
    wrong = home.refused("tenant", "list", LOOPER_CATALOG__URL="mysql://looper:hunter2@db/looper")
    assert "names a database that is not supported: give sqlite:///FILE or postgresql://" in wrong
    assert "hunter2" not in wrong
    wrong = home.refused("tenant", "list", LOOPER_CATALOG__URL="looper:hunter2@db")
    assert "not a database URL" in wrong
    assert "hunter2" not in wrong
    Path(tmp_path / "file").touch()
    assert f"File exists: '{tmp_path}/file'" in home.refused("tenant", "list", LOOPER_HOME=f"{tmp_path}/file/home")
    home.ok("tenant", "create", "acme")
    folder = tmp_path / "runs"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/monday \xff.jsonl")).write_bytes(Path(episodes).read_bytes())
    (file,) = json.loads(home.ok("ingest", str(folder), "--instance", "acme/desk", "--json"))["files"]
    assert (file["path"], file["kept"]) == (f"{folder}/monday \ufffd.jsonl", 1)
    with sqlite3.connect(home.folder / "home" / "catalog.sqlite") as sql:
        sql.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "which needs a release of schema 9999 or newer" in home.refused("tenant", "list")


def test_commands_on_an_empty_home_say_what_to_do_first(home: Home) -> None:
    assert "looper tenant create NAME" in home.ok("tenant", "list")
    assert "looper ingest PATH" in home.ok("instance", "list")
    assert "looper consolidate" in home.ok("jobs", "list")
    assert "looper up" in home.ok("status")
    assert "Looper was not running" in home.ok("down")
