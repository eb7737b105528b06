"""Tenants that ask their skills without a pause, behind a load balancer, as in front of a real cluster.

``python -m tests.cluster.faults.load ADDRESS...`` runs until it is killed, and prints one JSON object a line: each
attempt, each request with all its attempts, and each change of an address. The balancer asks the health check of Ray
Serve's proxy at each address every second. It sends nothing to an address that does not answer, and ends what that has
not answered yet. A tenant repeats a request that was refused for now, or whose address is gone.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.cluster.lab.drive import MARK_TOKENS, SKILLS

TENANTS = 4
PAUSE_S = 0.5
HEALTH_INTERVAL_S, HEALTH_TIMEOUT_S, HEALTH_FAILURES = 1.0, 2.0, 2
LONG_EVERY, LONG_TOKENS = 8, 200
"""Every so many requests, one asks for so many tokens. It runs for seconds."""
CONNECT_TIMEOUT_S, ATTEMPT_TIMEOUT_S = 2.0, 75.0
"""Above ``serve.request_timeout_s`` of the deployment: an attempt that takes longer hangs."""
GIVE_UP_S = 180.0
RETRIABLE = (408, 429, 503)


def tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


class Balancer:
    """Knows which addresses answer, and the attempts that run at each."""

    def __init__(self, addresses: list[str], http: httpx.AsyncClient) -> None:
        self._http = http
        self._is_up = dict.fromkeys(addresses, False)
        self._running: dict[str, set[asyncio.Task[Any]]] = {address: set() for address in addresses}
        self._turns: Iterator[str] = itertools.cycle(addresses)

    def choose(self) -> str | None:
        """Return the next address in turn that is up, or None."""
        turns = itertools.islice(self._turns, len(self._is_up))
        return next((address for address in turns if self._is_up[address]), None)

    async def watch(self, address: str) -> None:
        """Ask an address for its health until cancelled."""
        failures = 0
        while True:
            try:
                response = await self._http.get(f"http://{address}/-/healthz", timeout=HEALTH_TIMEOUT_S)
                failures, is_up = 0, response.status_code == 200
            except httpx.TransportError:
                failures += 1
                is_up = self._is_up[address] and failures < HEALTH_FAILURES
            if is_up != self._is_up[address]:
                self._is_up[address] = is_up
                tell(kind="address", address=address, up=is_up, at=time.time())
            if failures >= HEALTH_FAILURES:
                for attempt in self._running[address]:
                    attempt.cancel()
            await asyncio.sleep(HEALTH_INTERVAL_S)

    async def send(self, address: str, skill: dict[str, Any], name: str, tokens: int) -> tuple[str, str, float]:
        """Send one attempt; return what came of it, the reason, and how long to wait for the next one."""
        body = {"model": name, "prompt": "Please book", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        headers = {"authorization": f"Bearer {skill['key']}"}
        attempt = asyncio.ensure_future(self._http.post(f"http://{address}/v1/completions", json=body, headers=headers))
        self._running[address].add(attempt)
        try:
            response = await attempt
        except asyncio.CancelledError:
            return "lost", "the address does not answer", 0.0
        except httpx.TransportError as error:
            timed_out = isinstance(error, httpx.ReadTimeout)
            return "hung" if timed_out else "lost", type(error).__name__, PAUSE_S
        finally:
            self._running[address].discard(attempt)
        if response.status_code == 200:
            text = response.json()["choices"][0]["text"]
            mark = skill["texts"].get(response.headers["x-looper-version"], "unknown version")
            return "right" if text == tokens * mark else "wrong", "", 0.0
        try:
            reason = f"{response.status_code} {response.json()['error']['code']}"
        except (ValueError, KeyError, TypeError):
            reason = f"{response.status_code}"
        retry_after = response.headers.get("retry-after")
        if response.status_code in RETRIABLE and retry_after:
            return "refused", reason, float(retry_after)
        return "unclean", reason, PAUSE_S


async def be_a_tenant(balancer: Balancer, skills: dict[str, Any], numbers: Iterator[int]) -> None:
    """Send requests one after another, and repeat each until it is answered."""
    names = sorted(skills)
    while True:
        number = next(numbers)
        name, tokens = names[number % len(names)], MARK_TOKENS if number % LONG_EVERY else LONG_TOKENS
        began, outcome, waited = time.time(), "", 0.0
        while outcome not in ("right", "wrong") and time.time() - began < GIVE_UP_S:
            await asyncio.sleep(waited)
            if (address := balancer.choose()) is None:
                waited = PAUSE_S
                continue
            at = time.time()
            outcome, reason, waited = await balancer.send(address, skills[name], name, tokens)
            took = round(time.time() - at, 3)
            tell(kind="attempt", at=at, took=took, address=address, outcome=outcome, reason=reason)
        outcome = outcome if outcome in ("right", "wrong") else "given up"
        tell(kind="request", at=began, took=round(time.time() - began, 3), outcome=outcome)
        await asyncio.sleep(PAUSE_S)


async def run(addresses: list[str]) -> None:
    skills, numbers = json.loads(SKILLS.read_text()), itertools.count(1)
    timeout = httpx.Timeout(ATTEMPT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    async with httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=100)) as http:
        balancer = Balancer(addresses, http)
        await asyncio.gather(
            *(balancer.watch(address) for address in addresses),
            *(be_a_tenant(balancer, skills, numbers) for _ in range(TENANTS)),
        )


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1:]))
