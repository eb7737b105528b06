"""From Looper's errors to HTTP's: one table, for the control plane and the gateway alike."""

from collections.abc import Mapping
from math import ceil

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.domain.errors import (
    Conflict,
    CorruptAdapter,
    InvalidInput,
    LooperError,
    NotFound,
    OverLimit,
    Overloaded,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)

_STATUS: list[tuple[type[LooperError], int, str, str]] = [
    (TooLarge, 413, "invalid_request_error", "request_too_large"),
    (InvalidInput, 400, "invalid_request_error", "invalid_input"),
    (Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    (NotFound, 404, "invalid_request_error", "not_found"),
    (Conflict, 409, "invalid_request_error", "conflict"),
    (CorruptAdapter, 500, "server_error", "corrupt_adapter"),
    (OverLimit, 429, "rate_limit_error", "rate_limit_exceeded"),
    (StoreUnavailable, 503, "server_error", "store_unavailable"),
]


def answer_errors(app: FastAPI) -> None:
    """Make ``app`` answer Looper's errors, and requests of the wrong shape, in OpenAI's form."""

    @app.exception_handler(LooperError)
    async def on_looper_error(_: Request, error: LooperError) -> Response:
        headers = {}
        if isinstance(error, Overloaded):
            headers["retry-after"] = str(max(1, ceil(error.retry_after_s)))
        return _respond(*_to_http(error), headers)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_shape(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        detail = ErrorDetail(
            message=f"{where}: {first['msg']}", type="invalid_request_error", param=where or None, code="invalid_input"
        )
        return _respond(422, ErrorBody(error=detail))


def _respond(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> Response:
    asked = {"www-authenticate": "Bearer"} if status == 401 else {}
    return Response(body.model_dump_json(), status, {**asked, **(headers or {})}, media_type="application/json")


def _to_http(error: LooperError) -> tuple[int, ErrorBody]:
    for kind, status, type, code in _STATUS:
        if isinstance(error, kind):
            return status, ErrorBody(error=ErrorDetail(message=str(error), type=type, code=code))
    return 500, ErrorBody(error=ErrorDetail(message=str(error), type="server_error", code="internal_error"))
