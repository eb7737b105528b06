"""The wheel: whole, small in what it asks for, and of use where nothing else of ours is installed."""

import http.server
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.test_rooms import ROOMS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINKED = (*ROOMS, "examples")


def checkout(folder: Path, *, links: bool) -> Path:
    """A copy of what a wheel is made from; without ``links``, as Git checks it out with ``core.symlinks`` false."""
    for name in ("looper", *LINKED):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in () if links else LINKED:
        (folder / "looper" / name).unlink()
        (folder / "looper" / name).write_text(f"../{name}")
    return folder


def build(kind: str, tree: Path) -> Path:
    """Build a wheel, an sdist or an editable wheel of ``tree`` with the setuptools that is installed here."""
    program = f"from setuptools import build_meta; print('built', build_meta.build_{kind}('dist'))"
    built = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, check=False)
    if built.returncode:
        raise RuntimeError(built.stdout + built.stderr)
    return tree / "dist" / built.stdout.split()[-1]


def modules_and_data(wheel: Path) -> set[str]:
    return {name for name in ZipFile(wheel).namelist() if name.startswith("looper/")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as a package index would have it."""
    folder = tmp_path_factory.mktemp("build")
    with tarfile.open(build("sdist", checkout(folder / "tree", links=True))) as sdist:
        sdist.extractall(folder, filter="data")
    (unpacked,) = folder.glob("looper_skills-*/")
    return build("wheel", unpacked)


def test_the_wheel_holds_all_that_looper_links_to(wheel: Path) -> None:
    here = {
        Path(folder, file).relative_to(ROOT).as_posix()
        for folder, below, files in os.walk(ROOT / "looper", followlinks=True)
        if "__pycache__" not in folder
        for file in files
    }
    assert modules_and_data(wheel) == here
    assert {Path(name).suffix for name in here} >= {".py", ".json", ".jsonl", ".jinja", ".mako", ".typed"}


def test_a_checkout_without_links_makes_the_same_wheel_and_can_be_used(wheel: Path, tmp_path: Path) -> None:
    tree = checkout(tmp_path / "tree", links=False)
    assert modules_and_data(build("wheel", tree)) == modules_and_data(wheel)
    program = (
        "import looper.cli, looper.platform.client.client as client; from importlib.resources import files;"
        "print(client.__file__, files('looper.examples'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [str(tree / "platform/client/client.py"), str(tree / "examples")]


@pytest.mark.parametrize("links", [True, False])
def test_an_editable_install_finds_all_rooms(tmp_path: Path, links: bool) -> None:
    tree = checkout(tmp_path / "tree", links=links)
    ZipFile(build("editable", tree)).extractall(tmp_path / "site")
    program = (
        f"import site; site.addsitedir({str(tmp_path / 'site')!r}); from importlib.util import find_spec\n"
        f"print(*(bool(find_spec(f'looper.{{room}}')) for room in {LINKED!r}));"
        "import looper.platform.domain.errors, looper.examples; print(looper.platform.domain.errors.__file__)"
    )
    # Without the site-packages of this environment, which has a Looper.
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *found, file = ran.stdout.split()
    assert found == ["True"] * len(LINKED)
    assert Path(file).resolve() == tree / "platform/domain/errors.py"


def test_a_wheel_that_would_lack_something_is_not_built(tmp_path: Path) -> None:
    tree = checkout(tmp_path, links=False)
    (tree / "looper" / "attic").write_text("../attic")
    with pytest.raises(RuntimeError, match="looper/ links to attic: add it to ROOMS"):
        build("wheel", tree)
    (tree / "looper" / "attic").unlink()
    shutil.rmtree(tree / "jobs")
    with pytest.raises(RuntimeError, match="jobs/ is not beside looper/"):
        build("wheel", tree)


def test_an_earlier_build_leaves_nothing_in_a_wheel(wheel: Path, tmp_path: Path) -> None:
    tree = checkout(tmp_path, links=True)
    stale = tree / "build" / "lib" / "looper" / "moved.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert modules_and_data(build("wheel", tree)) == modules_and_data(wheel)


class Installed:
    """The wheel in an environment of its own, with what it declares to need and nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.bin, self.work = folder / "venv" / "bin", folder / "work"
        self.work.mkdir()
        self._environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._environment["LOOPER_HOME"] = str(folder / "home")
        installed = self._pip("install", str(wheel))
        if installed.returncode:
            if self._pip("download", "--no-deps", "typer").returncode:
                pytest.skip("the package index cannot be reached")
            raise RuntimeError(installed.stderr)

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "pip", *arguments, "--quiet", "--retries=1", "--timeout=15")

    def run(self, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.work,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, program: str) -> str:
        ran = self.run("python", "-c", program)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_help_answers_within_a_second(installed: Installed) -> None:
    installed.run("looper", "--help")  # Python compiles what it has not seen
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = installed.run("looper", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told.returncode == 0, told.stderr
    assert "consolidate" in told.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert installed.run("looper", "--version").stdout.strip() == PROJECT["version"]


def test_every_command_can_be_asked_for_help(installed: Installed) -> None:
    program = """
import typer
from typer.testing import CliRunner
from looper.cli import app

def ask(command, path):
    told = CliRunner().invoke(app, [*path, "--help"])
    assert told.exit_code == 0, (path, told.output, told.exception)
    for name, below in getattr(command, "commands", {}).items():
        ask(below, [*path, name])

ask(typer.main.get_command(app), [])
"""
    installed.python(program)


def test_the_client_is_light(installed: Installed) -> None:
    program = (
        "import sys; there = set(sys.modules); from looper.platform.client import Client; import json;"
        "print(json.dumps(sorted(set(sys.modules) - there)))"
    )
    loaded = json.loads(installed.python(program))
    assert len(loaded) < 400, len(loaded)  # pydantic and httpx


def test_client_and_help_touch_nothing_that_is_linux_only(installed: Installed) -> None:
    program = (
        "import sys, os, looper.cli, looper.platform.client, json;"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith('looper.') and m.__file__]))"
    )
    files = [Path(file) for file in json.loads(installed.python(program))]
    assert len(files) > 15
    linux_only = re.compile(r"sched_[gs]etaffinity|/proc/|/sys/|prctl|mallopt|import (fcntl|resource|pwd)\b")
    assert [file for file in files if linux_only.search(file.read_text())] == []


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        ("status", "serve"),
        ("tenant create acme", "serve"),
        ("ingest . --instance acme/helpdesk", "serve"),
        ("consolidate acme/helpdesk", "serve"),
        ("jobs list", "serve"),
        ("skills list", "serve"),
        ("chat acme/helpdesk hello", "serve"),
        ("up", "serve,train,cpu"),
        ("demo", "serve,train,cpu,bench"),
        ("bench capacity", "serve,train,cpu,bench"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(installed: Installed, arguments: str, extras: str) -> None:
    no_gpu = str(installed.bin)  # nvidia-smi is not there
    ran = installed.run("looper", *arguments.split(), PATH=no_gpu)
    (line,) = ran.stderr.splitlines()
    assert ran.returncode == 1
    assert line.startswith("error: ")
    assert line.endswith(f'pip install "looper-skills[{extras}]"')
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_demo_shows_its_plan(installed: Installed) -> None:
    ran = installed.run("looper", "demo", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "smollm2-135m" in ran.stdout
    for file in (ROOT / "examples").glob("*/*.jsonl"):
        count = len(file.read_text().splitlines())
        assert re.search(rf"{file.parent.name}/{file.stem} +{count}\b", ran.stdout), ran.stdout
    assert re.findall(r"^(\w+(?: model)?)  ", ran.stdout.partition("what it does")[2], re.MULTILINE) == [
        "base model", "ingest", "ray", "synthesize", "train", "gate", "serve", "ask", "stop"
    ]  # fmt: skip
    assert list(installed.work.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "cluster/grafana/serving.json",
        "examples/orchard/ops.jsonl",
        "basemodel/chatml_tools.jinja",
        "platform/catalog/migrations/script.py.mako",
    ],
)
def test_data_is_found_where_it_is_installed(installed: Installed, name: str) -> None:
    program = f"from importlib.resources import files; print(files('looper').joinpath({name!r}).is_file())"
    assert installed.python(program) == "True"


INSTANCE = {"name": "acme/helpdesk", "batches": 1, "trajectories": 3, "prod": None}
FILE = {"path": "monday.jsonl", "format": "openai", "trajectories": 3, "kept": 3, "rejected": 0, "reasons": {}}


class Stub(http.server.BaseHTTPRequestHandler):
    """Two routes of the control plane, and its errors."""

    def do_GET(self) -> None:
        self._answer(200, [INSTANCE]) if self.path == "/api/v1/instances" else self._answer(404, "there is no such one")

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path = "/api/v1/instances/helpdesk/trajectories?name=monday.jsonl&format=auto"
        good = sent == b"three" and self.path == path and self.headers["Authorization"] == "Bearer looper_key"
        self._answer(200, {"files": [FILE]}) if good else self._answer(400, f"{sent!r} to {self.path}")

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body if status == 200 else {"error": {"message": body}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("looper-api-version", "2")
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def stub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_client_works(installed: Installed, stub: str, tmp_path: Path) -> None:
    (tmp_path / "monday.jsonl").write_text("three")
    program = f"""
from looper.platform.client import Client
from looper.platform.domain.errors import NotFound

with Client({stub!r}, "looper_key") as looper:
    (instance,) = looper.instances()
    (report,) = looper.ingest("helpdesk", {str(tmp_path / "monday.jsonl")!r}).files
    try:
        looper.skill("nobody")
    except NotFound as error:
        print(instance.name, report.kept, error)
"""
    assert installed.python(program) == "acme/helpdesk 3 there is no such one"
