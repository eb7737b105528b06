"""Answers Looper's errors, and requests of the wrong shape, in OpenAI's form. Used by the gateway's applications."""

import logging
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from looper.platform.api.error_table import HttpError, to_http
from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.api.request_boundary import REQUEST_ID_HEADER, RequestBoundary, request_id_of
from looper.platform.domain.errors import LooperError, StoreUnavailable

log = logging.getLogger(__name__)

ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 409, 413, 414, 422, 429, 431, 503, 507)
}
"""What the OpenAPI document says of the errors of every route, for ``APIRouter(responses=...)``."""

_MAX_QUOTED_CHARACTERS = 300
"""Maximum length of what an error quotes of the request."""


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer errors in OpenAI's form, each with the id of its request.

    Args:
        app: The application. A ``LooperError`` is answered as ``error_table`` says; a request that FastAPI cannot
            validate is answered with status 422 and the first mistake, and one that has no route with 404 or 405. What
            failed on the server's side is answered with the request's id and without details, such as the address of
            the catalog; the log has them.
    """

    @app.exception_handler(LooperError)
    async def on_looper_error(request: Request, error: LooperError) -> Response:
        return _to_response(request, to_http(_without_details(request, error)))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"][1:])[:_MAX_QUOTED_CHARACTERS]
        detail = ErrorDetail(
            message=f"{location}: {first['msg'][:_MAX_QUOTED_CHARACTERS]}",
            type="invalid_request_error",
            param=location or None,
            code="invalid_input",
        )
        return _to_response(request, HttpError(422, ErrorBody(error=detail), {}))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:_MAX_QUOTED_CHARACTERS]
        detail = ErrorDetail(message=f"{request.method} {path}: {error.detail}", type="invalid_request_error")
        return _to_response(request, HttpError(error.status_code, ErrorBody(error=detail), error.headers or {}))

    @app.exception_handler(Exception)
    async def on_any_error(request: Request, error: Exception) -> Response:
        # The server logs the exception itself, without the id.
        log.error("request %s failed: %s: %s", request_id_of(request.scope), type(error).__name__, error)
        return _to_response(request, to_http(_internal_error(request)))

    # The outermost of the application's own middlewares.
    app.add_middleware(RequestBoundary)


def _without_details(request: Request, error: LooperError) -> LooperError:
    """Return what a client may know of an error. The rest is logged with the id of the request."""
    if type(error) is not LooperError and not isinstance(error, StoreUnavailable):
        return error
    id = request_id_of(request.scope)
    if isinstance(error, StoreUnavailable):
        log.error("request %s failed: %s", id, error.detail)
        return type(error)(f"{error} (request {id})")
    log.error("request %s failed: %s", id, error)
    return _internal_error(request)


def _internal_error(request: Request) -> LooperError:
    return LooperError(f"the server failed on request {request_id_of(request.scope)}: its log has the reason")


def _to_response(request: Request, error: HttpError) -> Response:
    headers = {**error.headers, REQUEST_ID_HEADER: request_id_of(request.scope)}
    return Response(error.body.model_dump_json(), error.status, headers, media_type="application/json")
