"""Sends requests to a model that answers OpenAI's chat completions. A failure only means that there is no response.

``endpoint`` sends over HTTP, and ``cluster/engine_model`` to the engines of the same cluster.
"""

import asyncio
import email.utils
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from looper.jobs.synthesis.llm.request import SEED, TEMPERATURE, LLMRequest
from looper.platform.settings import ModelSettings

log = logging.getLogger(__name__)

_RETRYABLE_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
"""HTTP statuses after which the same request may succeed."""

MAX_BACKOFF_S = 60.0
"""Maximum pause between two attempts, in seconds, even if the model's server asks for a longer one."""

_backoff = wait_random_exponential(multiplier=0.5, max=30.0)

Send = Callable[[dict[str, Any]], Awaitable[str]]
"""Sends the body of a chat completion and returns the text of the answer, or raises ``NoResponse``."""


class NoResponse(Exception):
    """The reason why there is no response, in a few words without secrets."""


class RetryableFailure(NoResponse):
    """A failure after which the same request may succeed.

    Args:
        reason: The reason.
        retry_after_s: Minimum pause before the next attempt, in seconds.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


async def send_all(
    requests: Sequence[LLMRequest],
    settings: ModelSettings,
    model: str,
    target: str,
    open_sender: Callable[[], AbstractAsyncContextManager[Send]],
) -> list[str | None]:
    """Send requests, several at the same time, and those that failed for the moment again.

    The reasons for missing responses are logged once for all requests.

    Args:
        requests: The requests.
        settings: Limits: ``max_concurrency`` requests are sent at the same time, each attempt must end within
            ``timeout_s`` and all within ``deadline_s``.
        model: The model's name in the requests.
        target: What is asked, for the log.
        open_sender: Opens what sends a request.

    Returns:
        The response to each request, or None where there is none.
    """
    responses: list[str | None] = [None] * len(requests)
    failures: Counter[str] = Counter()
    semaphore = asyncio.Semaphore(settings.max_concurrency)
    async with open_sender() as send_once:

        async def send(index: int) -> None:
            async with semaphore:
                try:
                    responses[index] = await _send_with_retries(send_once, requests[index], settings, model)
                except NoResponse as error:
                    failures[str(error)] += 1

        with suppress(TimeoutError):
            async with asyncio.timeout(settings.deadline_s), asyncio.TaskGroup() as group:
                for index in range(len(requests)):
                    group.create_task(send(index))
    if unfinished := responses.count(None) - failures.total():
        failures[f"not finished within the deadline of {settings.deadline_s:g} s"] = unfinished
    if failures:
        log.warning(
            "%s gave no response to %d of %d requests: %s",
            target,
            failures.total(),
            len(requests),
            ", ".join(f"{count} {reason}" for reason, count in failures.most_common()),
        )
    return responses


async def _send_with_retries(send_once: Send, request: LLMRequest, settings: ModelSettings, model: str) -> str:
    body = {
        "model": model,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": TEMPERATURE,
        "seed": SEED,
    }
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(RetryableFailure),
        stop=stop_after_attempt(settings.max_attempts),
        wait=_backoff_s,
        reraise=True,
    ):
        with attempt:
            try:
                async with asyncio.timeout(settings.timeout_s):
                    return await send_once(body)
            except TimeoutError as error:
                raise RetryableFailure(f"timed out after {settings.timeout_s:g} s") from error
    raise AssertionError("the last attempt returns or raises")


def read_completion(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Return the text of a chat completion.

    Args:
        status: HTTP status of the response.
        headers: Its headers.
        body: Its body.

    Returns:
        The text.

    Raises:
        NoResponse: It is something else. ``RetryableFailure``, if the same request may succeed later.
    """
    if status in _RETRYABLE_STATUSES:
        raise RetryableFailure(f"got status {status}", _retry_after_s(headers))
    if not 200 <= status < 300:
        raise NoResponse(f"refused with status {status}")
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoResponse("got something other than a chat completion") from error
    if not isinstance(content, str):
        raise NoResponse("got a chat completion without text")
    return content


def _backoff_s(state: RetryCallState) -> float:
    """Return the pause before the next attempt.

    It grows with each attempt and is random, so that requests that were refused together do not return together.
    """
    error = state.outcome.exception() if state.outcome else None
    retry_after_s = error.retry_after_s if isinstance(error, RetryableFailure) else 0.0
    return min(max(_backoff(state), retry_after_s), MAX_BACKOFF_S)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the pause that ``Retry-After`` asks for, which is a number of seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
