"""Asks a model behind any endpoint of OpenAI's protocol. Whatever goes wrong there, a request just has no answer."""

import asyncio
import email.utils
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from looper.jobs.synthesis.llm.request import SEED, TEMPERATURE, LLMRequest
from looper.platform.settings import ModelSettings

log = logging.getLogger(__name__)

_AGAIN = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses after which the same request may work."""

LONGEST_PAUSE_S = 60.0
"""Between two tries of a request, whatever the endpoint asks for."""

_backoff = wait_random_exponential(multiplier=0.5, max=30.0)


class _NoAnswer(Exception):
    """Why there is none, in a few words that hold nothing secret."""


class _TryAgain(_NoAnswer):
    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


def ask_endpoint(requests: Sequence[LLMRequest], settings: ModelSettings) -> list[str | None]:
    """The answers of the endpoint that ``settings`` name, ``concurrency`` at once, all within ``deadline_s``.

    Blocks; not for use inside an event loop. Why requests have no answer is logged, once for all of them.
    """
    return asyncio.run(_ask_all(requests, settings))


async def _ask_all(requests: Sequence[LLMRequest], settings: ModelSettings) -> list[str | None]:
    assert settings.endpoint is not None, "the caller chooses"
    answers: list[str | None] = [None] * len(requests)
    unanswered: Counter[str] = Counter()
    turns = asyncio.Semaphore(settings.max_concurrency)
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value().strip()}"} if settings.api_key else {}
    limits = httpx.Limits(max_connections=settings.max_concurrency)
    # Each try is timed as a whole: a server that sends a byte now and then would never be late for httpx.
    async with httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client:

        async def ask_one(place: int) -> None:
            async with turns:
                try:
                    answers[place] = await _patiently(client, requests[place], settings)
                except _NoAnswer as error:
                    unanswered[str(error)] += 1

        with suppress(TimeoutError):
            async with asyncio.timeout(settings.deadline_s), asyncio.TaskGroup() as group:
                for place in range(len(requests)):
                    group.create_task(ask_one(place))
    if late := answers.count(None) - unanswered.total():
        unanswered[f"not within {settings.deadline_s:g} s for all"] = late
    if unanswered:
        why = ", ".join(f"{count} {why}" for why, count in unanswered.most_common())
        host = httpx.URL(settings.endpoint).host
        log.warning(
            "model endpoint %s: %d of %d requests without an answer: %s", host, unanswered.total(), len(requests), why
        )
    return answers


async def _patiently(client: httpx.AsyncClient, request: LLMRequest, settings: ModelSettings) -> str:
    """The answer, after as many tries as it takes and are granted."""
    body = {
        "model": settings.name,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": TEMPERATURE,
        "seed": SEED,
    }
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(_TryAgain),
        stop=stop_after_attempt(settings.max_attempts),
        wait=_pause_s,
        reraise=True,
    ):
        with attempt:
            return await _once(client, body, settings)
    raise AssertionError("the last try returns or raises")


async def _once(client: httpx.AsyncClient, body: dict[str, Any], settings: ModelSettings) -> str:
    try:
        async with asyncio.timeout(settings.timeout_s):
            response = await client.post(f"{str(settings.endpoint).rstrip('/')}/chat/completions", json=body)
    except TimeoutError as error:
        raise _TryAgain(f"not within {settings.timeout_s:g} s") from error
    except httpx.TransportError as error:
        raise _TryAgain(f"broke off ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise _NoAnswer(f"cannot be asked ({type(error).__name__})") from error
    if response.status_code in _AGAIN:
        raise _TryAgain(f"answered {response.status_code}", _wanted_pause_s(response))
    if not response.is_success:
        raise _NoAnswer(f"refused with {response.status_code}")
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _NoAnswer("answered with something else than a chat completion") from error
    if not isinstance(content, str):
        raise _NoAnswer("answered without text")
    return content


def _pause_s(state: RetryCallState) -> float:
    """Longer after each try, at random, so that those refused together do not come again together."""
    error = state.outcome.exception() if state.outcome else None
    wanted = error.after_s if isinstance(error, _TryAgain) else 0.0
    return min(max(_backoff(state), wanted), LONGEST_PAUSE_S)


def _wanted_pause_s(response: httpx.Response) -> float:
    """What ``Retry-After`` asks for, in seconds or as a date."""
    wanted = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(wanted))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(wanted) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
