"""Runs commands on the Looper of a home folder and on the same one behind an address, in this process."""

import io
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import orjson
import pytest

import looper.cli
from looper.cluster.state import ClusterState, process_start, write_state
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES, Scope
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.app import build_gateway
from tests.platform.test_adapters import MANIFEST
from tests.platform.test_api import EPISODE, served
from tests.serve.gateway.harness import ScriptedEngine

DESK = InstanceName("acme", "desk")
SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)
BASE = "org/base"
BASES = '[{"base": "org/other"}]'
REPORT = {"json": b'{"kept": 3}', "html": b"<h1>kept 3</h1>"}


_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[info .*?\n")
"""What the gateway logs, which runs in this process, too."""


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


class Template(NamedTuple):
    """A home folder with something of everything, to be copied, and what is in it."""

    folder: Path
    names: dict[str, str]
    """What stands for ids and keys in the arguments of commands, by name."""


def run(*arguments: str, folder: Path, stdin: str = "", base: str | None = BASE, **environment: str) -> Ran:
    """Run ``looper`` with ``arguments`` as a process in ``folder`` would, with more environment variables.

    In this process, because Python takes longer to start and to import than most commands take.
    """
    out, err, umask = io.StringIO(), io.StringIO(), os.umask(0o022)
    with (
        mock.patch.dict(os.environ),  # a flag may set a variable for the processes that a command starts
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        for name in ("LOOPER_URL", "LOOPER_KEY"):
            patch.delenv(name, raising=False)
        bases = {"LOOPER_BASE": base, "LOOPER_BASES": BASES} if base else {}
        for name, value in {**bases, **environment}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["looper", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            looper.cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os.umask(umask)
    return Ran(status, _LOG_LINE.sub("", out.getvalue()), err.getvalue())


def build_template(folder: Path) -> Template:
    """Make a home folder with two tenants, two versions of a skill, an instance to consolidate, keys and a report."""
    settings = load_settings(home=folder, base=BASE)
    store, names = ObjectStore.open(settings), {}
    with closing(Catalog.open(settings)) as catalog:
        for tenant in ("acme", "rival"):
            catalog.create_tenant(tenant)
        for instance in (DESK, InstanceName("rival", "desk")):
            catalog.ensure_instance(instance)
            for number in (1, 2) if instance == DESK else (3,):
                catalog.add_batch(instance, f"b{number}", source=f"{number}.jsonl", trajectories=number)
                job = catalog.submit(instance, base=BASE, recipe=Recipe())
                catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
                manifest = MANIFEST.model_copy(update={"consolidation": job.id})
                files = AdapterFiles(f"w{number}".encode() * 9, b'{"r": 16}', manifest.to_bytes())
                digest = adapters.publish(store, instance.tenant, files)
                catalog.publish(job.id, "me", digest=digest, verdict=VERDICT, base_revision="r")
                names |= {f"JOB{number}": job.id, f"DIGEST{number}": digest}
        for kind, content in REPORT.items():
            store.put(keys.examples(names["JOB1"], f"report.{kind}"), content)
        for name in ("late", "shop"):
            instance = InstanceName("acme", name)
            catalog.ensure_instance(instance)
            catalog.add_batch(instance, "b4", source="4.jsonl", trajectories=4)
        names["QUEUED"] = catalog.submit(InstanceName("acme", "late"), base=BASE, recipe=Recipe()).id
        names["OPERATOR"] = issue_key(catalog, None, name="ann", scopes={Scope.OPERATOR})
        names["TENANT"] = issue_key(catalog, "acme", name="boss", scopes=TENANT_SCOPES)
        names["CI"] = issue_key(catalog, "acme", name="ci").split("_")[1]
        issue_key(catalog, "acme", name="other")
    return Template(folder, names)


@contextmanager
def serve_home(home: Path) -> Iterator[str]:
    """Serve the gateway of a home folder, and yield its URL. Commands on the home folder find it running."""
    settings = load_settings(home=home, base=BASE, bases=orjson.loads(BASES))
    engine = ScriptedEngine()
    engine.script = ['data: {"choices": [{"delta": {"content": "hello "}}]}\n\n', "data: [DONE]\n\n"]
    with closing(Catalog.open(settings)) as catalog:
        app = build_gateway(settings, catalog, ObjectStore.open(settings), engine)
        with served(app) as url:
            started = process_start(os.getpid())
            assert started is not None
            write_state(settings, ClusterState(pid=os.getpid(), started=started, phase="up", url=url))
            yield url


def copy_home(template: Template, home: Path) -> Path:
    """Return a copy of the template."""
    shutil.copytree(template.folder, home)
    return home


def restore_home(template: Template, home: Path) -> None:
    """Make a copy of the template what it was, also while a server has its catalog open."""
    with (
        closing(sqlite3.connect(template.folder / "catalog.sqlite")) as source,
        closing(sqlite3.connect(home / "catalog.sqlite")) as target,
    ):
        source.backup(target)
    shutil.rmtree(home / "store")
    shutil.copytree(template.folder / "store", home / "store")


def mask(text: str, template: Template) -> str:
    """Return a text without what is new in each run: ids, times, and the width of columns that depends on them."""
    known = {*template.names.values(), *(name[:12] for name in template.names.values())}
    text = re.sub(r"[0-9a-f]{12,}", lambda found: found[0] if found[0] in known else "NEW", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*Z?", "TIME", text)
    text = re.sub(r" [0-9a-f]{8}: ", " NEW: ", text)
    return re.sub(r" +\n", "\n", re.sub(r"  +", "  ", text))


def write_episodes(folder: Path) -> None:
    """Write files to ingest: good, broken and unknown ones, and one with a companion."""
    (folder / "runs" / ".hidden").mkdir(parents=True)
    (folder / "monday.jsonl").write_bytes(orjson.dumps(EPISODE) + b"\n")
    (folder / "notes.txt").write_text("hello")
    runs = folder / "runs"
    (runs / ".hidden" / "x.jsonl").write_bytes(orjson.dumps(EPISODE))
    (runs / "broken.jsonl").write_bytes(orjson.dumps(EPISODE | {"task_id": "t2"}) + b"\n{\n")
    (runs / "notes.txt").write_text("hello")
    (runs / "other.json").write_text('{"no": "episode"}')
    steps = [{"role": "user", "content": "Fix it", "message_type": "observation"}]
    steps.append(
        {"role": "assistant", "content": "done", "message_type": "action", "thought": "done", "action": "submit"}
    )
    trajectory = [{"thought": "done", "action": "submit", "observation": "", "response": "done"}]
    session = {"environment": "swe", "trajectory": trajectory, "history": steps, "info": {"exit_status": "submitted"}}
    (runs / "fix.traj").write_bytes(orjson.dumps(session))
    (runs / "fix.report.json").write_bytes(orjson.dumps({"fix": {"resolved": True}}))
