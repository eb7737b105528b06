"""Answers Looper's errors, and requests of the wrong shape, in OpenAI's form. Used by the gateway's applications."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from looper.platform.api.error_table import HttpError, to_http
from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.api.request_boundary import REQUEST_ID_HEADER, RequestBoundary, request_id_of
from looper.platform.domain.errors import LooperError, StoreUnavailable

log = logging.getLogger(__name__)

_MAX_QUOTED_CHARACTERS = 300
"""Maximum length of what a validation error quotes of the request."""


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer errors in OpenAI's form, each with the id of its request.

    Args:
        app: The application. A ``LooperError`` is answered as ``error_table`` says; a request that FastAPI cannot
            validate is answered with status 422 and the first mistake. What failed on the server's side is answered
            with the request's id and without details, such as the address of the catalog; the log has them.
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
