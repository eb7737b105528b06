"""From Looper's errors to HTTP's: one table, for the control plane and the gateway alike."""

from looper.platform.api.models import ErrorBody, ErrorDetail
from looper.platform.domain.errors import (
    Conflict,
    CorruptAdapter,
    InvalidInput,
    LooperError,
    NotFound,
    StoreUnavailable,
    Unauthorised,
)

_STATUS: list[tuple[type[LooperError], int, str, str]] = [
    (InvalidInput, 400, "invalid_request_error", "invalid_input"),
    (Unauthorised, 401, "invalid_request_error", "invalid_api_key"),
    (NotFound, 404, "invalid_request_error", "not_found"),
    (Conflict, 409, "invalid_request_error", "conflict"),
    (CorruptAdapter, 500, "server_error", "corrupt_adapter"),
    (StoreUnavailable, 503, "server_error", "store_unavailable"),
]


def to_http(error: LooperError) -> tuple[int, ErrorBody]:
    """Status and body for ``error``."""
    for kind, status, type, code in _STATUS:
        if isinstance(error, kind):
            return status, ErrorBody(error=ErrorDetail(message=str(error), type=type, code=code))
    return 500, ErrorBody(error=ErrorDetail(message=str(error), type="server_error", code="internal_error"))
