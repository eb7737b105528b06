"""A tenant that sends what nobody should send. Every request is answered or refused, and nobody else notices."""

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from schemathesis import Case

from looper.serve.requests.fields import FIELDS as REQUEST_FIELDS
from looper.serve.requests.fields import REFUSED
from tests.chaos.traffic import Ledger, check_refusal
from tests.openapi_requests import draw_cases, load_document, operations, to_request

BOUNDARY_VALUES: tuple[Any, ...] = (
    0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, "", "x" * 100_000, [], [[]] * 5000, {}, None, True,
)  # fmt: skip
"""Values that a field may not expect."""

FIELDS = sorted({*REQUEST_FIELDS["completions"], *REFUSED})
"""All fields of a request of completions, and those that are refused with a reason."""

TIMEOUT_S = 120.0

CASES_AT_A_TIME = 40
"""How many generated requests are drawn at once. The first ones of a draw are simple, and it takes a second or so."""

SPARED = ("/api/v1/keys/", "/api/v1/tenants")
"""Beginnings of paths that are not generated: the key that attacks must remain, and tenants are an operator's."""


def deep(levels: int) -> str:
    """Return JSON that is nested ``levels`` deep."""
    return "[" * levels + "]" * levels


def deep_schema(levels: int) -> dict[str, Any]:
    """Return a JSON schema of nested objects, which takes long to compile."""
    schema: dict[str, Any] = {"type": "string"}
    for level in range(levels):
        schema = {"type": "object", "properties": {f"a{level}": schema, f"b{level}": {"type": "integer"}}}
    return schema


class Attacks:
    """Requests that hurt, each a method that returns how the request ended."""

    def __init__(self, url: Callable[[], str], key: str, model: str, ledger: Ledger, rng: random.Random) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: Returns the address of the cluster.
            key: API key of the tenant that attacks.
            model: A skill of that tenant.
            ledger: Where outcomes are written.
            rng: Decides what is sent.
        """
        self._url, self._model, self._ledger, self._rng = url, model, ledger, rng
        self._headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(timeout=TIMEOUT_S, headers=self._headers, limits=httpx.Limits(max_connections=None))
        self._cases: list[Case] = []

    def run(self, name: str) -> None:
        """Run one attack, and write down how it ended.

        Args:
            name: Name of the attack.
        """
        try:
            outcome = ATTACKS[name](self)
        except httpx.TimeoutException:
            self._ledger.report_error(f"hostile {name}: no answer within {TIMEOUT_S:.0f} s")
            outcome = "hanging"
        except (httpx.TransportError, OSError):
            outcome = "connection lost"
        except Exception as error:  # or the run would go on without attacks
            self._ledger.report_error(f"hostile {name}: {error!r}")
            outcome = "not understood"
        self._ledger.hostile[f"{name} {outcome}"] += 1

    def _post(self, path: str = "/v1/completions", **request: Any) -> str:
        response = self._http.post(f"{self._url()}{path}", **request)
        if response.status_code >= 400 and (error := check_refusal(response)):
            content = str(request.get("json") or request.get("content"))[:200]
            self._ledger.report_error(f"hostile request {content}: {error}")
        return str(response.status_code)

    def _body(self, **more: Any) -> dict[str, Any]:
        return {"model": self._model, "prompt": "hello", "max_tokens": 4, **more}

    def boundary(self) -> str:
        """Give a field a value that it may not expect."""
        return self._post(json=self._body(**{self._rng.choice(FIELDS): self._rng.choice(BOUNDARY_VALUES)}))

    def many(self) -> str:
        """Ask for more sequences than fit, or for as many as do."""
        more = self._rng.choice([{"n": 128}, {"prompt": ["hello"] * 1024}, {"n": 4}, {"prompt": ["hello"] * 4}])
        return self._post(json=self._body(**more | {"max_tokens": 200, "ignore_eos": True, "temperature": 1}))

    def beams(self) -> str:
        """Ask for a beam search."""
        return self._post(json=self._body(use_beam_search=True, n=self._rng.choice([4, 64]), max_tokens=64))

    def schema(self) -> str:
        """Ask for a JSON schema that takes long to compile."""
        schema = {"name": "deep", "schema": deep_schema(self._rng.choice([5, 60, 400]))}
        return self._post(json=self._body(response_format={"type": "json_schema", "json_schema": schema}))

    def deep(self) -> str:
        """Send JSON that is nested too deep."""
        content = f'{{"model": "{self._model}", "prompt": {deep(self._rng.choice([100, 10_000, 400_000]))}}}'
        return self._post(content=content, headers={"content-type": "application/json"})

    def slow(self) -> str:
        """Send the beginning of a body, and no more."""
        address = urlsplit(self._url())
        with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {self._headers['authorization']}\r\n"
            connection.sendall(f"{head}Content-Length: 100000\r\n\r\n{{".encode())
            time.sleep(self._rng.uniform(0.5, 3))
        return "left"

    def leave(self) -> str:
        """Begin to read a long stream, and leave."""
        body = self._body(stream=True, max_tokens=1500, ignore_eos=True)
        with self._http.stream("POST", f"{self._url()}/v1/completions", json=body) as r:
            for _, _line in zip(range(3), r.iter_lines(), strict=False):
                pass
            return f"left {r.status_code}"

    def garbage(self) -> str:
        """Send what is no request."""
        content = self._rng.choice([b"", b"\xff\xfe", b"{", b'{"model": NaN}', b"null", self._rng.randbytes(50_000)])
        return self._post(content=content)

    def upload(self) -> str:
        """Upload megabytes of what is no trajectory."""
        content = self._rng.choice([b'{"messages": []}\n' * 500_000, b"[]," * 2_000_000, self._rng.randbytes(10**6)])
        return self._call_api("POST", "/api/v1/instances/hostile/trajectories?format=auto", content)

    def control_plane(self) -> str:
        """Submit what is no list of consolidations."""
        content = self._rng.choice([b"[]," * 80_000, b'{"instances": ["a"]}', self._rng.randbytes(100_000)])
        return self._call_api("POST", "/api/v1/consolidations", content)

    def schemathesis(self) -> str:
        """Send the control plane a request that is generated from its OpenAPI document."""
        if not self._cases:
            response = self._http.get(f"{self._url()}/openapi.json")
            if response.status_code != 200:
                return f"document {response.status_code}"
            document = load_document(response.json())
            found = [each for each in operations(document) if not each.path.startswith(SPARED)]
            self._cases = draw_cases(found, CASES_AT_A_TIME, self._rng.randrange(2**32))
        response = self._http.request(**to_request(self._cases.pop(), self._url(), self._headers))
        if response.status_code >= 400 and (error := check_refusal(response)):
            self._ledger.report_error(f"hostile {response.request.method} {response.request.url}: {error}")
        return str(response.status_code)

    def skills(self) -> str:
        """List all skills."""
        return self._call_api("GET", "/api/v1/skills", b"")

    def _call_api(self, method: str, path: str, content: bytes) -> str:
        url = f"{self._url()}{path}"
        response = self._http.request(method, url, content=content)
        if response.status_code >= 400 and (error := check_refusal(response)):
            self._ledger.report_error(f"hostile {path}: {error}")
        return str(response.status_code)


ATTACKS: dict[str, Callable[[Attacks], str]] = {
    "boundary": Attacks.boundary,
    "many": Attacks.many,
    "beams": Attacks.beams,
    "schema": Attacks.schema,
    "deep": Attacks.deep,
    "slow": Attacks.slow,
    "garbage": Attacks.garbage,
    "upload": Attacks.upload,
    "control_plane": Attacks.control_plane,
    "schemathesis": Attacks.schemathesis,
    "skills": Attacks.skills,
    "leave": Attacks.leave,
}
"""All attacks by name."""


class HostileTenant:
    """Runs attacks one after another until it is stopped."""

    def __init__(self, attacks: Attacks, rng: random.Random) -> None:
        """Prepare; nothing is sent yet.

        Args:
            attacks: The attacks.
            rng: Decides their order.
        """
        self._attacks, self._rng = attacks, rng
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        """Start sending."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop sending, and wait for the last answer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._attacks.run(self._rng.choice(list(ATTACKS)))


def _give_way() -> None:
    """Let every other process compute first. Linux compares the niceness of a session's processes among themselves."""
    os.setsid()
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    """Run one attack over several connections until standard input ends; print the outcomes and errors as JSON.

    Arguments: address of the cluster, API key, model, name of the attack, number of connections. It is a process of its
    own that gives way to others, because a real attacker computes on another machine.
    """
    url, key, model, name, connections = sys.argv[1:]
    _give_way()
    ledger, stop = Ledger(), threading.Event()

    def repeat(number: int) -> None:
        attacks = Attacks(lambda: url, key, model, ledger, random.Random(number))
        while not stop.is_set():
            attacks.run(name)

    threads = [threading.Thread(target=repeat, args=(number,), daemon=True) for number in range(int(connections))]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    print(json.dumps({"outcomes": dict(ledger.hostile), "errors": ledger.errors}))


if __name__ == "__main__":
    main()
