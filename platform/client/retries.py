"""Sends a request of the Python client, and again when that helps and does no harm."""

import random
import time
from typing import Any, Final

import httpx

from looper.platform.api.error_table import from_http, retry_after_s
from looper.platform.domain.errors import LooperError, StoreUnavailable

RETRY_PAUSE_S: Final = 0.5
"""Longest pause before the first retry, in seconds. It doubles with each one, and half of it is random."""

MAX_RETRY_WAIT_S: Final = 30.0
"""Longest time that the client waits before it sends a request again, in seconds."""


def send(
    http: httpx.Client, method: str, path: str, max_retries: int, *, may_repeat: bool, **request: Any
) -> httpx.Response:
    """Send a request until it is answered, or until another attempt does not help.

    Args:
        http: Connections to the server.
        method: HTTP method.
        path: Path below the base URL of ``http``.
        max_retries: How often the request is sent again at most.
        may_repeat: Whether it does no harm if the server handles the request twice. Else it is only sent again if the
            server has not begun on it: there was no connection, or it answered 429.
        **request: Other arguments of ``httpx.Client.request``.

    Returns:
        The successful response.

    Raises:
        LooperError: The error that the server answered at last; ``StoreUnavailable`` if it did not answer.
    """
    attempt = 0
    while True:
        pause_s = random.uniform(0.5, 1.0) * RETRY_PAUSE_S * 2**attempt
        try:
            response = http.request(method, path, **request)
        except httpx.TransportError as error:
            failure: LooperError = StoreUnavailable(f"no answer from {http.base_url}: {error}")
            failure.__cause__ = error
            is_retryable = may_repeat or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        else:
            if response.is_success:
                return response
            failure = from_http(response.status_code, response.content, response.headers)
            is_retryable = response.status_code == 429 or (response.status_code == 503 and may_repeat)
            if "retry-after" in response.headers:
                pause_s = max(pause_s, retry_after_s(response.headers))
        if not is_retryable or attempt == max_retries or pause_s > MAX_RETRY_WAIT_S:
            raise failure
        time.sleep(pause_s)
        attempt += 1
