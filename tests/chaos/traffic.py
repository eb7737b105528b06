"""Well-behaved tenants: what they send, and what they were answered."""

import asyncio
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import orjson

from tests.chaos.skills import MARK_TOKENS, MarkedSkill

TIMEOUT_S = 120.0
"""A request without an answer after this time counts as hanging, in seconds."""

CLIENTS_PER_TENANT = 2

PAUSE_AFTER_REFUSAL_S = 0.5


@dataclass
class Ledger:
    """What all tenants were answered."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Requests of well-behaved tenants by outcome."""
    hostile: Counter[str] = field(default_factory=Counter)
    """Requests of the hostile tenant by outcome."""
    answered: Counter[str] = field(default_factory=Counter)
    """Complete answers by tenant."""
    answered_in_quiet: Counter[str] = field(default_factory=Counter)
    """Those that no fault came near. During a fault, who is answered depends on whose skill is loaded already."""
    seconds_to_first_token: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By what happened meanwhile: the name of a fault, or "quiet"."""
    errors: list[str] = field(default_factory=list)
    """Everything that must never happen, in words."""
    phase: str = "quiet"
    """The fault that is going on."""
    may_lose_connections: bool = False
    """Whether the process that holds the clients' connections was just killed."""
    last_success_at: float = 0.0
    """When the last complete answer arrived, on the monotonic clock."""

    def report_error(self, message: str) -> None:
        """Write down what must never happen, with the fault that was going on, and say so at once."""
        self.errors.append(f"[{self.phase}] {message}")
        print(f"{datetime.now():%H:%M:%S} {self.errors[-1]}", file=sys.stderr, flush=True)


def check_refusal(response: httpx.Response) -> str | None:
    """Return what is wrong with an error response: every refusal has OpenAI's form, and tells when to come again."""
    try:
        error = orjson.loads(response.content)["error"]
        assert isinstance(error["message"], str)
    except (orjson.JSONDecodeError, KeyError, TypeError, AssertionError):
        return f"status {response.status_code} with {response.text[:100]!r} is not in OpenAI's form"
    if response.status_code in (429, 503) and "retry-after" not in response.headers:
        return f"status {response.status_code} has no Retry-After: {error['message']}"
    if response.status_code >= 500 and response.status_code not in (503, 507):  # 507: the disk is full
        return f"status {response.status_code}: {error['message']}"
    return None


class Traffic:
    """Sends requests of all tenants until it is stopped. It runs an event loop in a thread of its own."""

    def __init__(
        self, url: Callable[[], str], keys: dict[str, str], skills: list[MarkedSkill], ledger: Ledger, seed: int
    ) -> None:
        """Prepare the tenants, which send nothing yet.

        Args:
            url: Returns the address of the cluster.
            keys: API key of each tenant.
            skills: Skills of all tenants.
            ledger: Where the outcomes are written.
            seed: Decides who asks for what.
        """
        self._url, self._keys, self._skills, self._ledger, self._seed = url, keys, skills, ledger, seed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> None:
        """Start sending."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop sending, and wait for the answers."""
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=20)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as http, asyncio.TaskGroup() as group:
            for number, tenant in enumerate(self._keys):
                for client in range(CLIENTS_PER_TENANT):
                    rng = random.Random(f"{self._seed} {number} {client}")
                    group.create_task(self._use(http, tenant, rng))

    async def _use(self, http: httpx.AsyncClient, tenant: str, rng: random.Random) -> None:
        skills = [skill for skill in self._skills if skill.name.tenant == tenant]
        while not self._stop.is_set():
            phase = self._ledger.phase
            outcome = await self._ask(http, tenant, rng.choice(skills), rng)
            self._ledger.outcomes[outcome] += 1
            if outcome in ("complete", "streamed"):
                self._ledger.answered[tenant] += 1
                self._ledger.answered_in_quiet[tenant] += phase == self._ledger.phase == "quiet"
                self._ledger.last_success_at = time.monotonic()
            elif outcome != "closed by the client":
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def _ask(self, http: httpx.AsyncClient, tenant: str, skill: MarkedSkill, rng: random.Random) -> str:
        is_streamed, closes_early = rng.random() < 0.5, rng.random() < 0.1
        body: dict[str, Any] = {"model": str(skill.name), "prompt": "Please book", "max_tokens": MARK_TOKENS}
        body |= {"temperature": 0, "ignore_eos": True, "stream": is_streamed}
        headers, sent_at = {"authorization": f"Bearer {self._keys[tenant]}"}, time.monotonic()
        phase = self._ledger.phase
        try:
            request = http.stream("POST", f"{self._url()}/v1/completions", json=body, headers=headers)
            async with request as response:
                if response.status_code != 200:
                    await response.aread()
                    if error := check_refusal(response):
                        self._ledger.report_error(f"{tenant}: {error}")
                    return f"{response.status_code}"
                digest = response.headers["x-looper-version"]
                if not is_streamed:
                    text = orjson.loads(await response.aread())["choices"][0]["text"]
                    return self._check(skill, digest, text, sent_at, is_complete=True, outcome="complete")
                text = ""
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return self._check(skill, digest, text, sent_at, is_complete=True, outcome="streamed")
                    if not line.startswith("data: "):
                        continue
                    event = orjson.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return self._check(skill, digest, text, sent_at, is_complete=False, outcome="interrupted")
                    if not text:
                        self._ledger.seconds_to_first_token[phase].append(time.monotonic() - sent_at)
                        if closes_early:
                            return "closed by the client"
                    text += event["choices"][0]["text"]
                self._ledger.report_error(f"{tenant}: a stream ended without an error or [DONE]")
                return "no last event"
        except httpx.TimeoutException:
            self._ledger.report_error(f"{tenant}: no answer within {TIMEOUT_S:.0f} s")
            return "hanging"
        except httpx.TransportError as error:
            if not self._ledger.may_lose_connections:
                self._ledger.report_error(f"{tenant}: the connection was lost: {error!r}")
            return "connection lost"

    def _check(
        self, skill: MarkedSkill, digest: str, text: str, sent_at: float, *, is_complete: bool, outcome: str
    ) -> str:
        error = skill.find_error(digest, text, sent_at)
        if not error and is_complete and text != MARK_TOKENS * skill.text_by_digest[digest]:
            error = f"{skill.name} at {digest[:8]} answered only {text!r}"
        if error:
            self._ledger.report_error(f"wrong answer: {error}")
            return "wrong"
        return outcome
