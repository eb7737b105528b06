"""`looper login` and the environment choose the Looper; what can go wrong with it is one clear line each."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from looper.platform import revocation
from looper.platform.catalog import Catalog
from looper.platform.client import retries
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.certificates import self_signed
from tests.cli.both_ways import Ran, run
from tests.platform.test_api import serve_control_plane
from tests.private_files import find_open_files


class QuietHandler(BaseHTTPRequestHandler):
    """Answers, and prints nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


class Remote:
    """A remote Looper, and a laptop."""

    def __init__(self, url: str, catalog: Catalog, store: ObjectStore, laptop: Path) -> None:
        self.url, self.catalog, self.store, self.laptop = url, catalog, store, laptop
        self.key = issue_key(catalog, "acme", name="laptop", scopes={Scope.SUBMIT, Scope.ADMIN})

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        home = {"LOOPER_HOME": str(self.laptop / "home")}
        return run(*arguments, folder=self.laptop, stdin=stdin, **home, **environment)

    def refused(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        ran = self.run(*arguments, stdin=stdin, **environment)
        assert ran.status == 1, ran
        (line,) = ran.err.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setattr(retries, "RETRY_PAUSE_S", 0.0)
    settings = load_settings(home=tmp_path / "server")
    (tmp_path / "laptop").mkdir()
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        store = ObjectStore.open(settings)
        with serve_control_plane(settings, catalog, store) as url:
            yield Remote(url, catalog, store, tmp_path / "laptop")


def test_login_checks_and_stores_the_key_and_logout_forgets_it(remote: Remote) -> None:
    file = remote.laptop / "home" / "login.json"
    ran = remote.run("login", f"{remote.url}/", stdin=f"{remote.key}\n")
    assert ran.out == (
        f"logged in to {remote.url} as tenant acme, with key laptop for submit,admin; stored in {file}\n"
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_open_files(remote.laptop / "home") == []
    assert remote.run("instance", "list").out.startswith("no instances yet")
    remote.catalog.ensure_instance(InstanceName("acme", "desk"))
    assert "acme/desk" in remote.run("instance", "list").out
    assert f"commands work on: {remote.url} (from {file})" in remote.run("config", "show").out
    report = json.loads(remote.run("config", "show", "--json").out)
    assert report["looper"] == {"url": remote.url, "source": "file", "where": str(file)}
    assert remote.key not in str(report)
    assert remote.run("logout").out == f"logged out: {file} is deleted\n"
    assert remote.run("logout").out == "you were not logged in\n"
    assert remote.run("tenant", "list").out.startswith("no tenants yet"), "this machine again"


def test_a_key_that_is_wrong_is_not_stored(remote: Remote) -> None:
    for wrong in ("", "hunter2\n", "looper_é_x\n"):
        line = remote.refused("login", remote.url, stdin=wrong)
        assert line == "error: standard input: what is there is not an API key: keys look like looper_ID_SECRET"
    assert "the API key is wrong, expired or revoked" in remote.refused("login", remote.url, stdin=f"{remote.key}0")
    assert not (remote.laptop / "home" / "login.json").exists()


def test_the_environment_goes_before_the_file(remote: Remote) -> None:
    remote.run("login", remote.url, stdin=remote.key)
    elsewhere = {"LOOPER_URL": "http://127.0.0.1:1", "LOOPER_KEY": "looper_a_b"}
    assert "no answer from http://127.0.0.1:1" in remote.refused("jobs", "list", **elsewhere)
    assert "commands work on: http://127.0.0.1:1 (from LOOPER_URL)" in remote.run("config", "show", **elsewhere).out
    assert remote.run("logout", **elsewhere).err.startswith("note: LOOPER_URL is set, so commands still work on")
    for name, other in (("LOOPER_URL", "LOOPER_KEY"), ("LOOPER_KEY", "LOOPER_URL")):
        line = remote.refused("jobs", "list", **{name: elsewhere[name]})
        assert line == f"error: {name} is set and {other} is not: set both, or neither"


@pytest.mark.parametrize(
    "url", ["looper.example.com", "ftp://x", "http://", "http://a b", "https://u:p@x", "http://x:99999", "http://x?a=1"]
)
def test_what_is_not_an_address_is_refused(remote: Remote, url: str) -> None:
    line = remote.refused("jobs", "list", LOOPER_URL=url, LOOPER_KEY=remote.key)
    assert line == f"error: LOOPER_URL: {url!r} is not the address of a Looper: write https://HOST or http://HOST:PORT"


def test_a_damaged_file_says_how_to_go_on(remote: Remote) -> None:
    file = remote.laptop / "home" / "login.json"
    file.parent.mkdir()
    for content in ("", "[]", '{"url": "http://x"}', '{"url": 1, "key": 2}', "\xff"):
        file.write_bytes(content.encode("latin-1"))
        assert "run looper logout, then log in again" in remote.refused("jobs", "list")


def test_a_url_without_tls_beyond_this_machine_is_warned_of(remote: Remote) -> None:
    ran = remote.run("jobs", "list", LOOPER_URL="http://looper.invalid", LOOPER_KEY=remote.key)
    warning, error = ran.err.splitlines()
    assert warning == (
        "warning: http://looper.invalid is without TLS: whoever is on the way can read the API key; use https://"
    )
    assert error.startswith("error: no answer from http://looper.invalid: ")
    for host in ("localhost", "127.9.9.9", "[::1]"):
        url = f"http://{host}:1"
        assert "warning" not in remote.run("jobs", "list", LOOPER_URL=url, LOOPER_KEY=remote.key).err


def test_expired_and_revoked_keys_and_missing_scopes_are_named(remote: Remote) -> None:
    expired = issue_key(remote.catalog, "acme", lifetime=timedelta(seconds=-1))
    agent = issue_key(remote.catalog, "acme", scopes={Scope.INFER})
    revocation.revoke_key(remote.catalog, remote.store, "laptop", tenant="acme")
    at = {"LOOPER_URL": remote.url}
    for key in (expired, remote.key, "looper_a_b"):
        line = remote.refused("jobs", "list", LOOPER_KEY=key, **at)
        assert line == "error: the API key is wrong, expired or revoked: looper tenant key TENANT issues another"
    line = remote.refused("jobs", "list", LOOPER_KEY=agent, **at)
    assert line == ("error: the key lacks scope submit, it has infer: looper tenant key TENANT --scopes submit")
    line = remote.refused("tenant", "list", LOOPER_KEY=agent, **at)
    assert "only an operator's key has it, from looper operator key NAME on a machine of the cluster" in line
    line = remote.refused("skills", "show", "rival/desk", LOOPER_KEY=issue_key(remote.catalog, "acme"), **at)
    assert line == "error: the key belongs to tenant acme and cannot act for rival: use a key of rival"


@pytest.mark.parametrize(
    ("status", "headers", "body", "line"),
    [
        (200, {"looper-api-version": "9"}, "[]", "speaks version 9 of the API, and this looper version 2: install"),
        (200, {}, "[]", "is no Looper, or an older one than this"),
        (200, {"content-type": "text/html"}, "<h1>hello</h1>", "is no Looper, or an older one than this"),
        (404, {}, "nothing here", "is no Looper, or an older one than this"),
        (308, {"location": "https://elsewhere/"}, "", "redirects to https://elsewhere/: use the final address"),
        (502, {}, "<h1>Bad\nGateway</h1>", "the server answered HTTP status 502: <h1>Bad Gateway</h1>"),
    ],
)
def test_another_server_is_named_in_one_line(
    remote: Remote, status: int, headers: dict[str, str], body: str, line: str
) -> None:
    class Other(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert line in remote.refused("jobs", "list", LOOPER_URL=url, LOOPER_KEY=remote.key)
        assert line in remote.refused("login", url, stdin=remote.key)
        server.shutdown()


def test_failures_of_tls_are_named(remote: Remote, tmp_path: Path) -> None:
    secure = remote.url.replace("http://", "https://")
    line = remote.refused("jobs", "list", LOOPER_URL=secure, LOOPER_KEY=remote.key)
    assert line.startswith(f"error: no TLS connection to {secure}: ")
    assert "http:// is without TLS" in line
    certificate, key = self_signed(tmp_path)

    with ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_port}"
        line = remote.refused("jobs", "list", LOOPER_URL=url, LOOPER_KEY=remote.key)
        assert line.startswith(f"error: the certificate of {url} is not trusted: self-signed certificate; ")
        assert line.endswith("name the authority's certificate in SSL_CERT_FILE")
        trusted = {"SSL_CERT_FILE": str(certificate)}
        line = remote.refused("jobs", "list", LOOPER_URL=url, LOOPER_KEY=remote.key, **trusted)
        assert "trusted" not in line
        server.shutdown()


def test_local_commands_say_that_they_are_local(remote: Remote) -> None:
    at = {"LOOPER_URL": remote.url, "LOOPER_KEY": remote.key}
    ran = remote.run("down", **at)
    assert ran.err.startswith(f"note: `looper down` works on this machine, not on {remote.url} (from LOOPER_URL)\n")
    assert "note:" not in remote.run("down").err
    assert "note:" not in remote.run("down", "--help", **at).err
    line = remote.refused("operator", "keys", **at)
    assert line.startswith("error: `looper operator keys` opens the catalog itself: run it on a machine of ")


def test_an_operator_manages_keys_on_the_machine_itself(remote: Remote) -> None:
    assert remote.run("operator", "keys").out == "no operators' keys: looper operator key NAME\n"
    issued = json.loads(remote.run("operator", "key", "ann", "--json").out)
    assert issued["name"] == "ann"
    remote.run("operator", "key", "prometheus", "--scopes", "metrics", "--days", "9")
    assert "an operator has a key ann already" in remote.refused("operator", "key", "ann")
    keys = {key["name"]: key for key in json.loads(remote.run("operator", "keys", "--json").out)}
    assert {name: (key["tenant"], key["scopes"]) for name, key in keys.items()} == {
        "ann": (None, ["operator"]),
        "prometheus": (None, ["metrics"]),
    }
    assert "an operator's key cannot have scope infer" in remote.refused("operator", "key", "x", "--scopes", "infer")
    id = keys["ann"]["id"]
    assert remote.run("operator", "revoke", "ann").out == f"operator's key ann with id {id} is revoked\n"
    assert f"operator's key {id} does not exist or is revoked already" in remote.refused("operator", "revoke", id)
    assert "key x does not exist" in remote.refused("tenant", "revoke", "x")
    prometheus = keys["prometheus"]["id"]
    assert "does not exist" in remote.refused("tenant", "revoke", prometheus), "no tenant's"
    trail = [event["what"] for event in json.loads(remote.run("operator", "audit", "--json").out)]
    assert trail[0] == f"key ann/{id} was revoked"
    assert trail[-1] == f"key ann/{id} was issued for operator"
    with closing(Catalog.open(load_settings(home=remote.laptop / "home"))) as catalog:
        assert issued["key"].rpartition("_")[2] not in str(catalog.list_keys(None))


def test_a_laptop_needs_no_more_than_the_client(remote: Remote) -> None:
    """Commands on a remote Looper import none of what only the extras install."""
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'alembic', 'orjson', 'pyarrow', 'fastapi', 'starlette', 'fsspec', 'ray', 'openai', "
        "'psutil', 'safetensors'): sys.modules[name] = None\n"
        "import looper.cli; looper.cli.main()"
    )
    (remote.laptop / "monday.jsonl").write_text('{"messages": [{"role": "assistant", "content": "hi"}]}\n')
    environment = os.environ | {"LOOPER_URL": remote.url, "LOOPER_KEY": remote.key, "LOOPER_HOME": str(remote.laptop)}
    for arguments in (["ingest", "monday.jsonl", "--instance", "acme/desk"], ["jobs", "list"], ["skills", "list"]):
        ran = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=remote.laptop,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), arguments
