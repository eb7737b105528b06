"""TLS by settings: the real proxy is tested in tests/cluster/test_up.py; here is what decides about it."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from looper.serve.deployment.tls import base_url, find_exposure, http_options, trust_own_certificate
from tests.certificates import self_signed


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the name that http.server looks for
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Return URL, certificate and key of a server with a certificate that is not for its address."""
    cert, key = self_signed(tmp_path)
    server = http.server.HTTPServer(("127.0.0.1", 0), _Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", cert, key
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_own_certificate_is_trusted_and_no_other(https: tuple[str, Path, Path], tmp_path: Path) -> None:
    url, cert, key = https
    own = load_settings(serve={"tls_cert": cert, "tls_key": key}).serve
    assert httpx.get(url, verify=trust_own_certificate(own)).is_success
    (tmp_path / "other").mkdir()
    cert, key = self_signed(tmp_path / "other")
    other = load_settings(serve={"tls_cert": cert, "tls_key": key}).serve
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url, verify=trust_own_certificate(other))


def test_certificate_and_key_reach_the_proxy_as_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    serve = load_settings(serve={"tls_cert": "cert.pem", "tls_key": "key.pem"}).serve
    assert http_options(serve, 1) == {
        "host": "127.0.0.1",
        "port": 1,
        "ssl_certfile": str(tmp_path / "cert.pem"),
        "ssl_keyfile": str(tmp_path / "key.pem"),
    }
    assert base_url(serve, 1) == "https://127.0.0.1:1"
    assert base_url(load_settings().serve, 1) == "http://127.0.0.1:1"
    assert trust_own_certificate(load_settings().serve) is True


@pytest.mark.parametrize("only", ["tls_cert", "tls_key"])
def test_one_without_the_other_is_refused(only: str) -> None:
    with pytest.raises(InvalidInput, match="tls_cert and tls_key go together"):
        load_settings(serve={only: "file.pem"})


@pytest.mark.parametrize(
    ("host", "is_exposed"),
    [("127.0.0.1", False), ("127.0.1.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)],
)
def test_an_address_on_the_network_without_tls_is_warned_of(host: str, is_exposed: bool) -> None:
    warning = find_exposure(load_settings(serve={"host": host}).serve)
    assert (warning is not None) == is_exposed
    assert "\n" not in (warning or "")
    with_tls = load_settings(serve={"host": host, "tls_cert": "c", "tls_key": "k"}).serve
    assert find_exposure(with_tls) is None
