"""Sends a request of the Python client, and again when that helps and does no harm."""

import random
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx

from looper.platform.api.error_table import from_http, retry_after_s
from looper.platform.api.headers import API_VERSION, API_VERSION_HEADER
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
        LooperError: The error that the server answered at last; ``StoreUnavailable`` if it did not answer; another one
            if it is no Looper, or one of another version.
    """
    attempt = 0
    while True:
        pause_s = random.uniform(0.5, 1.0) * RETRY_PAUSE_S * 2**attempt
        try:
            response = http.request(method, path, **request)
        except httpx.TransportError as error:
            failure: LooperError = _no_answer(http, error)
            failure.__cause__ = error
            is_retryable = may_repeat or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            is_retryable = is_retryable and _find_tls_error(error) is None
        else:
            _check_version(http, response)
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


def stream(http: httpx.Client, path: str, **request: Any) -> Iterator[bytes]:
    """Get a response whose body is not held in memory. The request is sent once.

    Args:
        http: Connections to the server.
        path: Path below the base URL of ``http``.
        **request: Other arguments of ``httpx.Client.stream``.

    Yields:
        The parts of the body.

    Raises:
        LooperError: As ``send``. ``StoreUnavailable`` also if the body is cut off.
    """
    try:
        with http.stream("GET", path, **request) as response:
            _check_version(http, response)
            if not response.is_success:
                raise from_http(response.status_code, response.read(), response.headers)
            yield from response.iter_bytes()
    except httpx.TransportError as error:
        raise _no_answer(http, error) from error


def _check_version(http: httpx.Client, response: httpx.Response) -> None:
    """Raise an error unless a response is one of a server that speaks the version of this client."""
    url = _address(http)
    if response.is_redirect:
        target = response.headers.get("location", "nowhere")
        raise LooperError(f"{url} is not the address of a Looper, it redirects to {target}: use the final address")
    spoken = response.headers.get(API_VERSION_HEADER)
    # Of other errors without a version, a proxy's own text says more.
    if spoken == API_VERSION or (spoken is None and response.is_error and response.status_code not in (404, 405)):
        return
    if spoken is None:
        raise LooperError(
            f"{url} is no Looper, or an older one than this: it does not say that it speaks version {API_VERSION} of "
            "the API; check the address, or install the release of looper-skills that runs there"
        )
    raise LooperError(
        f"{url} speaks version {spoken[:20]} of the API, and this looper version {API_VERSION}: install the release of "
        "looper-skills that runs there"
    )


def _no_answer(http: httpx.Client, error: httpx.TransportError) -> StoreUnavailable:
    url, tls_error = _address(http), _find_tls_error(error)
    if isinstance(tls_error, ssl.SSLCertVerificationError):
        return StoreUnavailable(
            f"the certificate of {url} is not trusted: {tls_error.verify_message}; if it is your own authority's, name "
            "the authority's certificate in SSL_CERT_FILE"
        )
    if tls_error is not None:
        reason = getattr(tls_error, "reason", None) or tls_error
        return StoreUnavailable(f"no TLS connection to {url}: {reason}; check the address, http:// is without TLS")
    return StoreUnavailable(f"no answer from {url}: {error or type(error).__name__}")


def _find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _address(http: httpx.Client) -> str:
    return str(http.base_url).removesuffix("/").removesuffix("/api/v1")
