"""Each command does and says the same on this machine and on a remote Looper. A command without a row here fails."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from looper.cli import LOCAL_COMMANDS
from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.settings import load_settings
from tests.cli.both_ways import (
    Template,
    build_template,
    copy_home,
    mask,
    restore_home,
    run,
    serve_home,
    write_episodes,
)
from tests.test_rooms import command_paths

READS = {
    "tenant list": ["", "--json"],
    "tenant keys": ["acme", "acme --all --json", "nobody", "../x"],
    "tenant limit": ["acme", "acme --json", "nobody"],
    "tenant audit": ["acme", "acme --limit 2 --json", "nobody"],
    "instance list": ["", "--tenant acme --json", "--tenant nobody"],
    "instance show": ["acme/desk", "acme/desk --json", "acme/nobody", "nobody/desk", "desk"],
    "jobs list": ["", "--json", "--instance acme/desk", "--instance acme/nobody"],
    "jobs show": ["JOB1", "JOB2 --json", "QUEUED", "none", "../x"],
    "jobs logs": ["JOB1", "JOB3 --json", "none"],
    "jobs report": ["JOB1 --json", "JOB2 --json", "none", "JOB1"],
    "jobs watch": ["JOB1 JOB3", "JOB1 --json", "JOB1 none"],
    "skills list": ["", "--json"],
    "skills show": ["acme/desk", "acme/desk --json", "acme/shop", "acme/nobody"],
    "skills export": ["acme/desk --out here", "acme/shop --out out", "acme/desk --out out --digest ffff"],
    "chat": ["acme/desk hello", "acme/nobody hello", "acme/desk@prod hello --max-tokens 3"],
}
"""Arguments of commands that change nothing of the home folder. Both ways work on the same one."""

CHANGES = {
    "tenant create": ["newco", "newco --json", "acme", "../x"],
    "tenant key": [
        "acme",
        "acme --name new --scopes infer --days 3 --json",
        "acme --name ci",
        "acme --scopes operator",
        "nobody",
    ],
    "tenant revoke": ["acme/ci", "CI", "nothing", "rival/ci"],
    "tenant limit": ["acme --requests 600 --tokens 5", "acme --requests 0 --tokens 7 --json"],
    "ingest": [
        "monday.jsonl --instance acme/new",
        "runs --instance acme/new --json",
        "monday.jsonl runs --instance acme/new",
        "notes.txt --instance acme/new",
        "runs/other.json --instance acme/new",
        "nowhere.jsonl --instance acme/new",
        "monday.jsonl --instance nobody/new",
        "monday.jsonl --instance acme/new --format none",
    ],
    "consolidate": [
        "acme/shop",
        "acme/shop --json --priority 5 --rank 8",
        "acme/shop acme/nobody",
        "acme/nobody",
        "acme/desk",
        "acme/shop --rank 64",
        "acme/shop acme/nobody --rank 64",
        "acme/shop --epochs 0",
        "acme/shop --start none",
        "acme/shop --start No",
        "acme/shop --priority 11",
    ],
    "instance create": [
        "acme/new --base org/base",
        "acme/shop --base org/other --json",
        "acme/desk --base org/other",
        "acme/late --base org/other",
        "acme/new --base org/none",
        "nobody/new --base org/other",
    ],
    "move": [
        "acme/desk --base org/other",
        "acme/desk --base org/other --priority 5 --json",
        "acme/desk --base org/base",
        "acme/desk --base org/none",
        "acme/shop --base org/other",
        "acme/late --base org/other",
        "acme/nobody --base org/other",
        "acme/desk --base org/other --priority 11",
    ],
    "jobs cancel": ["QUEUED", "JOB1 none QUEUED QUEUED"],
    "skills promote": [
        "acme/desk DIGEST1",
        "acme/desk DIGEST1 --channel canary --share 0.1 --expected DIGEST2",
        "acme/desk DIGEST1 --expected DIGEST1",
        "acme/desk DIGEST1 --share 0.5",
        "acme/desk ffff",
        "acme/nobody DIGEST1",
    ],
    "skills rollback": ["acme/desk", "acme/desk --expected DIGEST1", "acme/desk --channel canary", "rival/desk"],
    "skills drop": ["acme/desk prod", "acme/desk canary"],
    "skills revoke": ["acme/desk DIGEST2", "acme/desk DIGEST1", "acme/desk ffff"],
}
"""Arguments of commands that change something. Each way works on a copy of its own."""

ELSEWHERE = {"login", "logout", "config show", "config schema"}
"""Commands that concern the choice between the two: tests/cli/test_login.py."""

OPENS_THE_CATALOG = {"operator key", "operator keys", "operator revoke", "operator audit"}
"""Commands that are refused where others work on a remote Looper: tests/cli/test_login.py."""

DIFFERS = {"status"}
"""On a machine of the cluster, it has more to tell: tests/cli/test_status.py."""


def cases(table: dict[str, list[str]]) -> list[str]:
    return [f"{command} {arguments}".strip() for command, each in table.items() for arguments in each]


def test_every_command_is_in_a_table() -> None:
    commands = {" ".join(path) for path in command_paths()}
    local = {command for command in commands if command.split()[0] in LOCAL_COMMANDS}
    assert commands - local == {*READS, *CHANGES, *ELSEWHERE, *OPENS_THE_CATALOG, *DIFFERS}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return build_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture(scope="module")
def read_home(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = copy_home(template, tmp_path_factory.mktemp("read") / "home")
    with serve_home(home) as url, closing(Catalog.open(load_settings(home=home))) as catalog:
        with Client(url, template.names["TENANT"]) as client:
            client.key()
        while not any(key.last_used_at for key in catalog.list_keys("acme")):  # a thread writes it
            threading.Event().wait(0.05)
        yield home, url


class TwoHomes(NamedTuple):
    """Two copies of the template: one for commands on this machine, and a served one."""

    local: Path
    remote: Path
    url: str


@pytest.fixture(scope="module")
def served_homes(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHomes]:
    folder = tmp_path_factory.mktemp("change")
    local, remote = (copy_home(template, folder / name) for name in ("local", "remote"))
    with serve_home(remote) as url:
        (local / "cluster.json").write_bytes((remote / "cluster.json").read_bytes())  # it finds the cluster running
        yield TwoHomes(local, remote, url)


@pytest.fixture
def homes(served_homes: TwoHomes, template: Template) -> TwoHomes:
    """The two copies as they were at first."""
    for home in (served_homes.local, served_homes.remote):
        restore_home(template, home)
    return served_homes


def words(case: str, template: Template) -> list[str]:
    return [template.names.get(word, word) for word in case.split()]


def work_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "here").mkdir()
    write_episodes(folder)
    return folder


def is_of_one_tenant(case: str) -> bool:
    """Whether a key of tenant acme sees as much as an operator's."""
    return any(word.startswith("acme") or word in ("JOB1", "JOB2", "QUEUED") for word in case.split()) and (
        "JOB3" not in case
    )


@pytest.mark.parametrize(
    ("key", "case"),
    [("OPERATOR", case) for case in cases(READS)]
    + [("TENANT", case) for case in cases(READS) if is_of_one_tenant(case)],
)
def test_what_commands_show(
    case: str, key: str, read_home: tuple[Path, str], template: Template, tmp_path: Path
) -> None:
    home, url = read_home
    here, there = (work_folder(tmp_path, name) for name in ("here", "there"))
    local = run(*words(case, template), folder=here, LOOPER_HOME=str(home))
    remote = run(
        *words(case, template),
        folder=there,
        LOOPER_HOME=str(tmp_path / "laptop"),
        LOOPER_URL=url,
        LOOPER_KEY=template.names[key],
    )
    location = f"{home}/store/examples/{template.names['JOB1']}/report.html"
    at_server = f"{url}/api/v1/consolidations/{template.names['JOB1']}/report?format=html"
    expected = local._replace(out=local.out.replace(location, at_server))
    if case.startswith(("jobs show", "tenant keys")):  # the location and the time of last use are not the same
        remote, expected = (ran._replace(out=mask(ran.out, template)) for ran in (remote, expected))
    assert remote == expected, f"{remote}\n{expected}"
    assert local.status == (1 if local.err and not case.startswith("jobs watch JOB1 --json") else 0)
    assert not (tmp_path / "laptop").exists(), "nothing is opened on the laptop"


@pytest.mark.parametrize("case", cases(CHANGES))
def test_what_commands_change(case: str, homes: TwoHomes, template: Template, tmp_path: Path) -> None:
    here, there = (work_folder(tmp_path, name) for name in ("here", "there"))
    local = run(*words(case, template), folder=here, LOOPER_HOME=str(homes.local))
    laptop = {
        "LOOPER_HOME": str(tmp_path / "laptop"),
        "LOOPER_URL": homes.url,
        "LOOPER_KEY": template.names["OPERATOR"],
    }
    remote = run(*words(case, template), folder=there, **laptop)
    masked = [type(ran)(ran.status, mask(ran.out, template), mask(ran.err, template)) for ran in (local, remote)]
    assert masked[1] == masked[0], f"{masked[1]}\n{masked[0]}"
    assert (local.status == 0) == (local.err == "")
    contents = [mask(describe_catalog(home), template) for home in (homes.local, homes.remote)]
    assert contents[1] == contents[0]


def describe_catalog(home: Path) -> str:
    """Return what is in a catalog, without who did it and what only secrets decide."""
    with closing(Catalog.open(load_settings(home=home))) as catalog:
        tenants, instances = catalog.list_tenants(), catalog.list_instances()
        rows: list[object] = [
            (instance, [(batch.source, batch.trajectories, batch.id) for batch in catalog.list_batches(instance)])
            for instance in instances
        ]
        rows += [
            (instance, catalog.get_channels(instance), catalog.get_channel_shares(instance)) for instance in instances
        ]
        rows += [(job.instance, job.state, job.base, job.recipe, job.priority) for job in catalog.list_consolidations()]
        for tenant in tenants:
            rows.append(catalog.get_quota(tenant))
            rows += [(key.name, sorted(key.scopes), key.revoked_at is None) for key in catalog.list_keys(tenant)]
            rows += [(event.instance, event.what) for event in catalog.list_audit_trail(tenant)]
    return "\n".join(map(str, rows))


@pytest.mark.parametrize("case", ["consolidate acme/shop acme/nobody --wait", "consolidate acme/shop --wait --json"])
def test_waiting_for_a_consolidation(case: str, homes: TwoHomes, template: Template, tmp_path: Path) -> None:
    results = []
    remote = {"LOOPER_URL": homes.url, "LOOPER_KEY": template.names["OPERATOR"]}
    for home, environment in ((homes.local, {"LOOPER_HOME": str(homes.local)}), (homes.remote, remote)):
        fails = threading.Thread(target=fail_the_new_one, args=(home,))
        fails.start()
        ran = run(*words(case, template), folder=tmp_path, **{"LOOPER_HOME": str(tmp_path / "no"), **environment})
        fails.join()
        results.append((ran.status, mask(ran.out, template), mask(ran.err.splitlines()[-1], template)))
    assert results[0] == results[1]
    assert results[0][0] == 1
    assert "no examples left" in results[0][1]


def fail_the_new_one(home: Path) -> None:
    """Fail the first consolidation of acme/shop, as the queue worker would."""
    from looper.platform.domain.states import QueueStage

    with closing(Catalog.open(load_settings(home=home))) as catalog:
        while not any(job.instance.instance == "shop" for job in catalog.list_consolidations()):
            threading.Event().wait(0.05)
        for job in catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60):
            catalog.fail(job.id, "me", "no examples left")


def test_exported_files_and_reports_are_the_same(
    read_home: tuple[Path, str], template: Template, tmp_path: Path
) -> None:
    home, url = read_home
    local = {"LOOPER_HOME": str(home)}
    remote = {"LOOPER_URL": url, "LOOPER_KEY": template.names["TENANT"]}
    for name, environment in (("local", local), ("remote", remote)):
        for command in (
            f"skills export acme/desk --out {name}/old --digest {template.names['DIGEST1'][:9]}",
            f"skills export acme/desk --out {name}/prod",
            f"jobs report {template.names['JOB1']} --out {name}/report.html",
        ):
            assert run(*command.split(), folder=tmp_path, **environment).status == 0
    files = {file.relative_to(tmp_path / "local") for file in (tmp_path / "local").rglob("*") if file.is_file()}
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "local" / file).read_bytes() == (tmp_path / "remote" / file).read_bytes()
    assert files == {f.relative_to(tmp_path / "remote") for f in (tmp_path / "remote").rglob("*") if f.is_file()}
