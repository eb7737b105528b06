"""Sends requests to an OpenAI-compatible endpoint. Any failure there only means that a request has no response.

``model_factory.open_model`` chooses it if the settings name an endpoint.
"""

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

_RETRYABLE_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""HTTP statuses after which the same request may succeed."""

MAX_BACKOFF_S = 60.0
"""Maximum pause between two attempts, in seconds, even if the endpoint asks for a longer one."""

_backoff = wait_random_exponential(multiplier=0.5, max=30.0)


class _NoResponse(Exception):
    """The reason why there is no response, in a few words without secrets."""


class _RetryableFailure(_NoResponse):
    """A failure after which the same request may succeed."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def generate_with_endpoint(requests: Sequence[LLMRequest], settings: ModelSettings) -> list[str | None]:
    """Send requests to the endpoint that the settings name.

    This blocks and must not be called inside an event loop. The reasons for missing responses are logged once for all
    requests.

    Args:
        requests: The requests.
        settings: Endpoint, model, key, and limits: ``max_concurrency`` requests are sent at the same time, and all must
            finish within ``deadline_s``.

    Returns:
        The response to each request, or None where there is none.
    """
    return asyncio.run(_send_all(requests, settings))


async def _send_all(requests: Sequence[LLMRequest], settings: ModelSettings) -> list[str | None]:
    assert settings.endpoint is not None, "open_model calls this only if an endpoint is set"
    responses: list[str | None] = [None] * len(requests)
    failures: Counter[str] = Counter()
    semaphore = asyncio.Semaphore(settings.max_concurrency)
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value().strip()}"} if settings.api_key else {}
    limits = httpx.Limits(max_connections=settings.max_concurrency)
    # Each attempt has a timeout as a whole. httpx would never time out a server that sends a byte now and then.
    async with httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client:

        async def send(index: int) -> None:
            async with semaphore:
                try:
                    responses[index] = await _send_with_retries(client, requests[index], settings)
                except _NoResponse as error:
                    failures[str(error)] += 1

        with suppress(TimeoutError):
            async with asyncio.timeout(settings.deadline_s), asyncio.TaskGroup() as group:
                for index in range(len(requests)):
                    group.create_task(send(index))
    if unfinished := responses.count(None) - failures.total():
        failures[f"not finished within the deadline of {settings.deadline_s:g} s"] = unfinished
    if failures:
        log.warning(
            "The model endpoint %s gave no response to %d of %d requests: %s",
            httpx.URL(settings.endpoint).host,
            failures.total(),
            len(requests),
            ", ".join(f"{count} {reason}" for reason, count in failures.most_common()),
        )
    return responses


async def _send_with_retries(client: httpx.AsyncClient, request: LLMRequest, settings: ModelSettings) -> str:
    body = {
        "model": settings.name,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": TEMPERATURE,
        "seed": SEED,
    }
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(_RetryableFailure),
        stop=stop_after_attempt(settings.max_attempts),
        wait=_backoff_s,
        reraise=True,
    ):
        with attempt:
            return await _send_once(client, body, settings)
    raise AssertionError("the last attempt returns or raises")


async def _send_once(client: httpx.AsyncClient, body: dict[str, Any], settings: ModelSettings) -> str:
    try:
        async with asyncio.timeout(settings.timeout_s):
            response = await client.post(f"{str(settings.endpoint).rstrip('/')}/chat/completions", json=body)
    except TimeoutError as error:
        raise _RetryableFailure(f"timed out after {settings.timeout_s:g} s") from error
    except httpx.TransportError as error:
        raise _RetryableFailure(f"lost the connection ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise _NoResponse(f"could not be sent ({type(error).__name__})") from error
    if response.status_code in _RETRYABLE_STATUSES:
        raise _RetryableFailure(f"got status {response.status_code}", _retry_after_s(response))
    if not response.is_success:
        raise _NoResponse(f"refused with status {response.status_code}")
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _NoResponse("got something other than a chat completion") from error
    if not isinstance(content, str):
        raise _NoResponse("got a chat completion without text")
    return content


def _backoff_s(state: RetryCallState) -> float:
    """Return the pause before the next attempt.

    It grows with each attempt and is random, so that requests that were refused together do not return together.
    """
    error = state.outcome.exception() if state.outcome else None
    retry_after_s = error.retry_after_s if isinstance(error, _RetryableFailure) else 0.0
    return min(max(_backoff(state), retry_after_s), MAX_BACKOFF_S)


def _retry_after_s(response: httpx.Response) -> float:
    """Return the pause that ``Retry-After`` asks for, which is a number of seconds or a date."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
