"""Every error of ``/v1``, in OpenAI's form. To find out why a request got a status, look up its ``code`` here.

| status | code | reason | raised in |
| --- | --- | --- | --- |
| 400 | invalid_json | The body is not a JSON object. | requests/parser.py |
| 400 | null | ``param`` names the field or header that is wrong. | requests, gateway, engine/grammars.py, vLLM |
| 401 | invalid_api_key | The API key is missing, wrong, expired or revoked. | platform/tenancy |
| 403 | insufficient_scope | The API key lacks the scope that the route needs. | platform/api/authenticated_route.py |
| 404 | model_not_found | The tenant has no model of this name. | gateway/model_resolver.py |
| 404, 405 | null | There is no such path or method. | platform/api/error_handlers.py |
| 408 | request_too_slow | The body arrives too slowly. | platform/api/request_body.py, deployment/proxy_bodies.py |
| 408 | request_too_slow | The headers arrive too slowly. | deployment/proxy_connections.py |
| 413 | request_too_large | The body is larger than the limit. | gateway, deployment/proxy_bodies.py |
| 400, 414, 431 | invalid_input | The URL or the headers are not acceptable. | platform/api/request_boundary.py |
| 400, 431 | invalid_input | The request is not HTTP, or its headers do not end. | deployment/proxy_connections.py |
| 415 | null | The body is compressed. | gateway/completion_handler.py |
| 422 | invalid_input | A query parameter is wrong. | platform/api/error_handlers.py |
| 429 | rate_limit_exceeded | The tenant's rate limit or its concurrent requests are used up. | gateway/rate_limits.py |
| 500 | engine_failed | The engine raised an error; the gateway's log has it. | gateway/completion_handler.py |
| 500 | corrupt_adapter, missing_adapter, unservable_adapter | The adapter cannot be loaded. | engine/skill_server.py |
| 503 | overloaded | The admission queue is full or too slow for the request. | engine/admission.py |
| 503 | overloaded | The adapter or the grammar takes longer than the request allows. | engine/deadline.py |
| 503 | overloaded | Too many requests of the tenant wait for being parsed, or for their grammars. | fair_turns.py |
| 503 | version_revoked | The version was revoked during the response. | gateway/revocation.py |
| 503 | version_unconfirmed | The catalog is away for too long to know what is revoked. | gateway/revocation.py |
| 503 | overloaded | The node of the proxy was lost before the whole body had arrived. | gateway/lost_proxy.py |
| 503 | overloaded | No engine began within the time that the client allows. | gateway/deadlines.py |
| 503 | store_unavailable | The object store or the catalog does not respond. | platform/objectstore, platform/catalog |
| 503 | store_unavailable | The disk is full. | cache/disk_cache.py |
| 503 | store_unavailable | The download process died or takes a minute. | cache/download_process.py |
| 503 | request_timeout | The request took longer than serve.request_timeout_s. | gateway/deadlines.py |
| 422 | base_not_served | The version's base model is not one of this cluster. | deployment/engine_client.py |
| 422 | engine_killer | Engines died at this request. | deployment/engine_client.py |
| 503 | engine_gone | No engine runs or accepts it, or the two that were tried died. | deployment/engine_client.py |
| 503 | engine_died | The engine died while it began with this request. | deployment/engine_client.py |
| 503 | overloaded | The bodies of all requests are too large together. | deployment/proxy_bodies.py |
| 503 | overloaded | All connections of the proxy have requests. | deployment/proxy_connections.py |
| 503 | gateway_gone | The gateway died; Ray Serve's proxy responds. | deployment/proxy_errors.py |

The code is in the response body. Details of an engine's or an adapter's failure are in the log of the replica. Paths
are relative to ``serve/``, except those that begin with ``platform``.

The gateway, the skill server and the proxy call the functions below. Errors that are a ``LooperError`` get status and
code from ``platform/api/error_table.py``. Imports no web framework, torch or vLLM.
"""

from collections.abc import Mapping
from math import ceil

from looper.platform.api.error_table import to_http
from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.domain.errors import CorruptAdapter, LooperError, NotFound, StoreUnavailable
from looper.serve.protocol import FullResponse

_RETRY_SOON = {"retry-after": "1"}

_MAX_QUOTED_CHARACTERS = 256


class RequestRefused(Exception):
    """Ends a request with an error response.

    Args:
        response: The error response.

    Attributes:
        response: The same response.
    """

    def __init__(self, response: FullResponse) -> None:
        super().__init__(response.body.decode())
        self.response = response


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> FullResponse:
    """Build an error in OpenAI's form.

    Args:
        status: HTTP status. Below 500 the type is ``invalid_request_error``, otherwise ``server_error``.
        message: What is wrong and what to do about it.
        code: Stable name of the error, for programs.
        param: Field of the request that is wrong.
        headers: Headers of the response. A 503 without ``retry-after`` gets one.

    Returns:
        The response.
    """
    if status == 503:
        headers = _RETRY_SOON | dict(headers or {})
    error_type = "invalid_request_error" if status < 500 else "server_error"
    detail = ErrorDetail(message=message, type=error_type, param=param, code=code)
    return FullResponse(status, ErrorBody(error=detail).model_dump_json().encode(), headers or {})


def looper_error_response(error: LooperError) -> FullResponse:
    """Return the response that the platform's error table has for an error.

    Args:
        error: The error.

    Returns:
        The response, with ``retry-after`` for an ``Overloaded``.
    """
    http = to_http(error)
    return FullResponse(http.status, http.body.model_dump_json().encode(), http.headers)


def adapter_error_response(digest: str, error: LooperError) -> FullResponse:
    """Return the response for a version whose adapter cannot be loaded.

    Args:
        digest: Digest of the version.
        error: Why it cannot be loaded. Its message may have addresses of the object store, which clients must not see.

    Returns:
        The response. It names the digest.
    """
    match error:
        case CorruptAdapter():
            return looper_error_response(CorruptAdapter(f"version {digest} is corrupt in the object store"))
        case NotFound():
            # Not a 404: the catalog has the version, so the client did nothing wrong.
            return error_response(500, f"version {digest} is not in the object store", code="missing_adapter")
        case StoreUnavailable():
            return looper_error_response(StoreUnavailable(f"version {digest} cannot be loaded now: try again"))
        case _:
            return error_response(500, str(error), code="unservable_adapter")


def model_not_found(model: str) -> FullResponse:
    """Return the response for a model name that the tenant cannot use.

    It is the same for a malformed name, an unknown name and another tenant's name, so that it reveals nothing about
    other tenants.

    Args:
        model: The name that the client sent.

    Returns:
        The response.
    """
    name = model[:_MAX_QUOTED_CHARACTERS]
    message = f"The model `{name}` does not exist or you do not have access to it."
    return error_response(404, message, code="model_not_found")


def base_not_served(base: str) -> FullResponse:
    """Return the response for a version whose base model has no engines here, so that no other engine may answer.

    Args:
        base: The base model, as the settings named it when the version was trained.

    Returns:
        The response.
    """
    message = f"The version was trained on base model {base}, which is not one of this cluster: roll back, or move it."
    return error_response(422, message, code="base_not_served", param="model")


def invalid_json(reason: str) -> FullResponse:
    """Return the response for a body that is not a JSON object.

    Args:
        reason: What is wrong with it.

    Returns:
        The response.
    """
    return error_response(400, f"the request body is not a JSON object: {reason}", code="invalid_json")


def engine_gone(retry_after_s: float) -> FullResponse:
    """Return the response for a request that no engine can run now.

    Args:
        retry_after_s: Estimated time until an engine runs again, in seconds.
    """
    message = "the engine died and is started again: try again"
    return error_response(503, message, code="engine_gone", headers=_retry_after(retry_after_s))


def engine_died(retry_after_s: float) -> FullResponse:
    """Return the response for a request that may have killed its engine.

    Args:
        retry_after_s: Estimated time until an engine runs again, in seconds.
    """
    message = "the engine died when it began with this request: try again"
    return error_response(503, message, code="engine_died", headers=_retry_after(retry_after_s))


def engine_killer(refused_for_s: float) -> FullResponse:
    """Return the response for a request at which engines have died.

    Args:
        refused_for_s: Time for which the request is refused, in seconds.
    """
    message = (
        f"engines died at this request, so it is refused for {refused_for_s / 60:.0f} minutes: change it, or ask the "
        "operator, who has a record of it"
    )
    return error_response(422, message, code="engine_killer")


def engine_failed() -> FullResponse:
    """Return the response for a request on which the engine raised an error. The reason is only logged."""
    return error_response(500, "the engine failed on this request: try again", code="engine_failed")


def request_timed_out(timeout_s: float) -> FullResponse:
    """Return the response for a request that was cut because it took too long.

    Args:
        timeout_s: How long it may take, in seconds.

    Returns:
        The response.
    """
    message = f"the request took longer than {timeout_s:g} s: ask for fewer tokens, or try again later"
    return error_response(503, message, code="request_timeout", headers=_RETRY_SOON)


def version_revoked() -> FullResponse:
    """Return the error for a response whose version was revoked while it was generated."""
    return error_response(
        503, "the response was stopped: this version was revoked", code="version_revoked", headers=_RETRY_SOON
    )


def version_unconfirmed() -> FullResponse:
    """Return the error for a response while nobody can tell whether its version or its key is revoked."""
    return error_response(
        503, "the catalog does not respond: try again", code="version_unconfirmed", headers=_RETRY_SOON
    )


def stream_failed() -> FullResponse:
    """Return the error for a stream during which the engine failed."""
    return error_response(500, "the stream was interrupted: the engine failed, try again", code="engine_failed")


def to_last_events(error: FullResponse) -> str:
    """Convert an error to the last events of a stream that has begun.

    Args:
        error: The error.
    """
    return f"data: {error.body.decode()}\n\ndata: [DONE]\n\n"


def gateway_gone() -> FullResponse:
    """Return the response for a request whose gateway died before it had responded."""
    return error_response(
        503, "the gateway died before it had responded: try again", code="gateway_gone", headers=_RETRY_SOON
    )


def body_too_large(max_bytes: int) -> FullResponse:
    """Return the response for a body above the limit of its path.

    Args:
        max_bytes: The limit, in bytes.
    """
    message = f"the request is larger than {max_bytes // 2**20} MiB: send less at once"
    return error_response(413, message, code="request_too_large")


def body_too_slow() -> FullResponse:
    """Return the response for a body that does not arrive."""
    message = "the request's body did not arrive in time: send it again"
    return error_response(408, message, code="request_too_slow", headers=_RETRY_SOON)


def too_many_bodies() -> FullResponse:
    """Return the response for a body for which there is no memory now."""
    message = "too much data is being sent to this server: try again later"
    return error_response(503, message, code="overloaded", headers=_RETRY_SOON)


def head_too_slow() -> FullResponse:
    """Return the response for a request whose headers do not arrive."""
    message = "the request's headers did not arrive in time: send it again"
    return error_response(408, message, code="request_too_slow", headers=_RETRY_SOON)


def head_too_large(max_bytes: int) -> FullResponse:
    """Return the response for a request whose headers do not end.

    Args:
        max_bytes: The limit, in bytes.
    """
    message = f"the URL and the headers have more than {max_bytes // 2**10} KiB: send less"
    return error_response(431, message, code="invalid_input")


def malformed_request() -> FullResponse:
    """Return the response for what is not HTTP."""
    return error_response(400, "this is not an HTTP/1.1 request: check the client", code="invalid_input")


def too_many_connections() -> FullResponse:
    """Return the response for a connection for which there is no room now."""
    message = "too many requests are sent to this server at the same time: try again later"
    return error_response(503, message, code="overloaded", headers=_RETRY_SOON)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, ceil(seconds)))}
