"""Every field of ``/v1`` at its bounds, sent to a real engine. After each request, another tenant gets its answer."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from statistics import quantiles

import httpx
import pytest

from looper.platform.tenancy import issue_key
from looper.serve.error_responses import RequestRefused
from looper.serve.protocol import Endpoint
from looper.serve.requests.checks import RequestLimits
from looper.serve.requests.parser import parse_request
from tests.serve.live import HELLO, LiveServer, find_processes
from tests.serve.requests.boundary_bodies import boundary_bodies

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

SAMPLE_EVERY = 97
"""The sample in ``make test`` has one in so many bodies: 74 of 7,128."""

MAX_P99_RATIO = 3.0


def all_bodies(live: LiveServer) -> Iterator[tuple[Endpoint, str, str]]:
    """Yield each body whole, and streamed too if the gateway lets it in."""
    limits = RequestLimits(live.settings.serve.seats, live.settings.serve.max_model_len)
    for endpoint in PATHS:
        for field, body in boundary_bodies(endpoint):
            yield endpoint, field, body
            streamed = body[:-1] + ',"stream":true}'
            with suppress(RequestRefused):
                parse_request(endpoint, streamed.encode(errors="surrogatepass"), limits)
                yield endpoint, field, streamed


class Traffic:
    """A tenant that sends what it likes, and another one that only wants its answers."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._http = httpx.Client(base_url=live.url, timeout=120)
        self._keys = {name: self._key(name) for name in ("boundaries", "bystander")}
        self.statuses: Counter[int] = Counter()
        self._expected = self._ask()

    def _key(self, name: str) -> str:
        if name not in self._live.catalog.list_tenants():
            self._live.catalog.create_tenant(name)
        return f"Bearer {issue_key(self._live.catalog, name)}"

    def send(self, endpoint: Endpoint, field: str, body: str) -> None:
        """Send a body as it is, and check the response."""
        headers = {"authorization": self._keys["boundaries"], "content-type": "application/json"}
        response = self._http.post(PATHS[endpoint], content=body.encode(errors="surrogatepass"), headers=headers)
        self.statuses[response.status_code] += 1
        what = (endpoint, field, body[:300], response.status_code, response.text[:500])
        assert response.status_code in (200, 400, 404, 503), what
        assert response.status_code != 503 or "retry-after" in response.headers, what
        if response.status_code == 400:
            assert {"message", "type", "param", "code"} <= response.json()["error"].keys(), what
            assert len(response.content) < 10_000, what
        for error in re.findall(r'data: (\{"error".*)', response.text):
            assert int(json.loads(error)["error"]["code"]) < 500, what

    def ask_as_another_tenant(self) -> float:
        """Ask as the other tenant, check the answer, and return how long it took, in seconds."""
        started_s = time.perf_counter()
        assert self._ask() == self._expected
        return time.perf_counter() - started_s

    def _ask(self) -> str:
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 2, "temperature": 0}
        headers = {"authorization": self._keys["bystander"]}
        response = self._http.post(PATHS["chat"], json=body, headers=headers)
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["message"]["content"]
        return text


def engine_pids() -> set[int]:
    return {process.pid for name in ("ServeReplica:looper:skills", "VLLM::") for process in find_processes(name)}


def p99_s(times: list[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[98]


def test_a_sample_of_bodies_at_the_bounds_hurts_nobody(live: LiveServer) -> None:
    traffic, engines = Traffic(live), engine_pids()
    for endpoint, field, body in islice(all_bodies(live), 0, None, SAMPLE_EVERY):
        traffic.send(endpoint, field, body)
        traffic.ask_as_another_tenant()
    assert traffic.statuses[200] > 5
    assert traffic.statuses[400] > 30
    assert engine_pids() == engines


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_all_bodies_at_the_bounds_hurt_nobody(live: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    traffic, engines = Traffic(live), engine_pids()
    failures, waits_s, quiet_s = [], [], []
    for endpoint, field, body in all_bodies(live):
        try:
            traffic.send(endpoint, field, body)
        except AssertionError as error:
            failures.append(str(error)[:700])
        waits_s.append(traffic.ask_as_another_tenant())
        # The question after that is the quiet one to compare with. The machine is as busy as a moment ago.
        quiet_s.append(traffic.ask_as_another_tenant())
    ratio = p99_s(waits_s) / p99_s(quiet_s)
    with capsys.disabled():
        print(
            f"\n{len(waits_s)} requests, by status {dict(traffic.statuses)}; the other tenant's p99 is "
            f"{p99_s(quiet_s) * 1000:.0f} ms when quiet, and {ratio:.2f} times that after each of them"
        )
    assert failures == []
    assert engine_pids() == engines
    assert ratio <= MAX_P99_RATIO
