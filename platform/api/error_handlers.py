"""Answers Looper's errors, and requests of the wrong shape, in OpenAI's form. Used by the gateway's applications."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from looper.platform.api.error_table import HttpError, to_http
from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.domain.errors import LooperError


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer errors in OpenAI's form.

    Args:
        app: The application. A ``LooperError`` is answered as ``error_table`` says; a request that FastAPI cannot
            validate is answered with status 422 and the first mistake.
    """

    @app.exception_handler(LooperError)
    async def on_looper_error(_: Request, error: LooperError) -> Response:
        return _to_response(to_http(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"][1:])
        detail = ErrorDetail(
            message=f"{location}: {first['msg']}",
            type="invalid_request_error",
            param=location or None,
            code="invalid_input",
        )
        return _to_response(HttpError(422, ErrorBody(error=detail), {}))


def _to_response(error: HttpError) -> Response:
    return Response(error.body.model_dump_json(), error.status, dict(error.headers), media_type="application/json")
