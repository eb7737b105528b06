"""Errors cross HTTP unchanged: the client raises what the server raised, whoever answered."""

import httpx
import pytest
from fastapi import FastAPI

from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.api.error_table import ERROR_TABLE, from_http, to_http
from looper.platform.client import Client
from looper.platform.domain import errors
from looper.platform.domain.errors import LooperError, MalformedTrajectory, Overloaded, StoreFull, StoreUnavailable
from tests.platform.test_api import served


def make(error: type[LooperError]) -> LooperError:
    if issubclass(error, Overloaded):
        return error("try again later", retry_after_s=2.2)
    return MalformedTrajectory("empty", "no steps") if error is MalformedTrajectory else error("what is wrong")


ALL = [make(kind) for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LooperError)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_http(error: LooperError) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/api/v1/instances")
    def fail() -> None:
        raise error

    with served(app) as url, Client(url, "looper_any", max_retries=0) as client, pytest.raises(LooperError) as caught:
        client.instances()
    # A subclass without a row of its own becomes the nearest class that has one.
    expected = errors.InvalidInput if type(error) is MalformedTrajectory else type(error)
    assert type(caught.value) is expected
    # What failed on the server's side is only in its log.
    is_hidden = type(error) in (LooperError, StoreUnavailable, StoreFull)
    assert (str(caught.value) == str(error)) is not is_hidden
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after_s == 3.0, "whole seconds, rounded up"


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (500, b"<html>\n<h1>Internal Server Error</h1>", LooperError),
        (502, b"<html>Bad Gateway</html>", LooperError),
        (503, b"no healthy upstream", StoreUnavailable),
        (404, b'{"detail": "Not Found"}', errors.NotFound),
        (429, b"", errors.RateLimited),
        (400, b'{"error": {"message": "m", "type": "t", "code": "unknown", "other": 1}}', errors.InvalidInput),
        (404, b'{"error": {"message": "m"}}', errors.NotFound),
        (409, b'{"error": "not an object"}', errors.Conflict),
        (413, b"[]", errors.TooLarge),
    ],
)
def test_a_response_that_is_not_loopers_is_named_by_its_status(
    status: int, content: bytes, error: type[LooperError]
) -> None:
    found = from_http(status, content, {})
    assert type(found) is error
    assert "\n" not in str(found)


def test_a_retry_after_that_is_a_date_is_replaced() -> None:
    headers = httpx.Headers({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    error = from_http(429, b"", headers)
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 1.0


def test_codes_are_unique() -> None:
    assert len({row.code for row in ERROR_TABLE}) == len({row.error for row in ERROR_TABLE}) == len(ERROR_TABLE)


def test_a_missing_key_is_answered_with_how_to_authenticate() -> None:
    assert to_http(errors.Unauthorized("no key")).headers == {"www-authenticate": "Bearer"}


def test_every_503_says_when_to_try_again() -> None:
    unavailable = [response for response in map(to_http, ALL) if response.status == 503]
    assert len(unavailable) >= 2
    assert all(float(response.headers["retry-after"]) >= 1 for response in unavailable)
