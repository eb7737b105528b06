"""The one table between Looper's errors and HTTP responses.

The control plane and the gateway look up the status and the body of an error here, and the Python client turns a
response back into the error. To give an error an HTTP status, add a row. Imports no web framework.
"""

import json
from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.domain.errors import (
    Conflict,
    CorruptAdapter,
    Forbidden,
    InvalidInput,
    LooperError,
    NotFound,
    Overloaded,
    RateLimited,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    TooSlow,
    Unauthorized,
)

MAX_QUOTED_CHARACTERS = 200
"""Length of the quotation from a response that is not in OpenAI's form, such as a proxy's HTML page."""

DEFAULT_RETRY_AFTER_S = 1.0
"""Waiting time that is assumed where a response should have a ``Retry-After`` header and has none in seconds."""


class ErrorMapping(NamedTuple):
    """One error class and its HTTP response."""

    error: type[LooperError]
    status: int
    """HTTP status."""
    type: str
    """``error.type`` of OpenAI's error body."""
    code: str
    """``error.code`` of OpenAI's error body. The client recognizes the error class by it."""


ERROR_TABLE: Final = (
    ErrorMapping(TooLarge, 413, "invalid_request_error", "request_too_large"),
    ErrorMapping(TooSlow, 408, "invalid_request_error", "request_too_slow"),
    ErrorMapping(InvalidInput, 400, "invalid_request_error", "invalid_input"),
    ErrorMapping(Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    ErrorMapping(Forbidden, 403, "invalid_request_error", "insufficient_scope"),
    ErrorMapping(NotFound, 404, "invalid_request_error", "not_found"),
    ErrorMapping(Conflict, 409, "invalid_request_error", "conflict"),
    ErrorMapping(CorruptAdapter, 500, "server_error", "corrupt_adapter"),
    ErrorMapping(LooperError, 500, "server_error", "internal_error"),
    ErrorMapping(RateLimited, 429, "rate_limit_error", "rate_limit_exceeded"),
    ErrorMapping(StoreUnavailable, 503, "server_error", "store_unavailable"),
    ErrorMapping(StoreFull, 507, "server_error", "store_full"),
    ErrorMapping(Overloaded, 503, "server_error", "overloaded"),
)
"""All errors that reach a client. An error that has no row is mapped like the nearest of its base classes."""

_BY_ERROR = {row.error: row for row in ERROR_TABLE}
_BY_CODE = {row.code: row for row in ERROR_TABLE}
_BY_STATUS = {
    status: next(row for row in ERROR_TABLE if row.status == status)
    for status in {row.status for row in ERROR_TABLE} - {500}
}
"""For responses without a known code. Any failure can answer 500, so 500 alone says nothing of the kind of error."""


class HttpError(NamedTuple):
    """An HTTP response that reports an error."""

    status: int
    body: ErrorBody
    headers: Mapping[str, str]
    """Headers beyond the content type, with names in lower case."""


def to_http(error: LooperError) -> HttpError:
    """Return the response that reports ``error``.

    Args:
        error: The error. Each 408, 503 and ``Overloaded`` has a ``retry-after`` header in whole seconds, at least 1.

    Returns:
        Status, body in OpenAI's form, and headers.
    """
    row = next(_BY_ERROR[base] for base in type(error).__mro__ if base in _BY_ERROR)
    headers = {}
    if isinstance(error, Overloaded) or row.status in (408, 503):
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else DEFAULT_RETRY_AFTER_S
        headers["retry-after"] = str(max(1, ceil(wait_s)))
    if row.status == 401:
        headers["www-authenticate"] = "Bearer"
    return HttpError(
        row.status, ErrorBody(error=ErrorDetail(message=str(error), type=row.type, code=row.code)), headers
    )


def from_http(status: int, content: bytes, headers: Mapping[str, str]) -> LooperError:
    """Return the error that a response reports.

    Args:
        status: HTTP status, 400 or above.
        content: Body of the response. It need not be in OpenAI's form: a proxy may have answered.
        headers: Headers of the response; ``retry-after`` is read.

    Returns:
        The error that the server raised, found by the code in the body. Without a known code the status decides, and
        a status that fits no error gives a plain ``LooperError``.
    """
    try:
        detail = json.loads(content)["error"]
        code, message = detail.get("code"), str(detail["message"])
    except (ValueError, LookupError, TypeError, AttributeError):  # not OpenAI's form
        quoted = " ".join(content.decode(errors="replace").split())[:MAX_QUOTED_CHARACTERS]
        code, message = None, f"the server answered HTTP status {status}: {quoted or 'no text'}"
    row = _BY_CODE.get(str(code)) or _BY_STATUS.get(status)
    error = row.error if row else LooperError
    if issubclass(error, Overloaded):
        return error(message, retry_after_s=retry_after_s(headers))
    return error(message)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that ``headers`` ask a client to wait, ``DEFAULT_RETRY_AFTER_S`` if they do not say."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:  # missing, or a date
        return DEFAULT_RETRY_AFTER_S
