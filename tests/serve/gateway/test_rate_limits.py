"""Rate limits, on a clock that the tests set."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from looper.platform.catalog import Quota
from looper.platform.domain.errors import RateLimited
from looper.serve.gateway.budgets import MemoryBudgets
from looper.serve.gateway.rate_limits import TenantRateLimiter


class Limiter:
    """A limiter of the only gateway, without its coroutines, which wait for nothing."""

    def __init__(self, default: Quota | None = None, max_concurrent: int = 1) -> None:
        self.limiter = TenantRateLimiter(default or Quota(), max_concurrent, MemoryBudgets())

    def admit(self, tenant: str, quota: Quota, now: float) -> None:
        asyncio.run(self.limiter.admit(tenant, quota, now))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.limiter, name)


def test_a_full_bucket_allows_one_minute_of_requests_and_refills_steadily() -> None:
    limiter, quota = Limiter(), Quota(requests_per_minute=6)
    for _ in range(6):
        limiter.admit("acme", quota, 0)
    with pytest.raises(RateLimited, match="6 requests per minute") as error:
        limiter.admit("acme", quota, 4)
    assert error.value.retry_after_s == pytest.approx(6)
    limiter.admit("acme", quota, 10)
    with pytest.raises(RateLimited):
        limiter.admit("acme", quota, 10)
    limiter.admit("other", quota, 10)


def test_tokens_are_charged_afterwards_and_a_negative_bucket_delays_the_next_request() -> None:
    limiter, quota = Limiter(), Quota(tokens_per_minute=600)
    limiter.admit("acme", quota, 0)
    limiter.charge("acme", 900)
    with pytest.raises(RateLimited, match="600 tokens per minute") as error:
        limiter.admit("acme", quota, 1)
    assert error.value.retry_after_s == pytest.approx(29.1)
    limiter.admit("acme", quota, 31)


@pytest.mark.parametrize(("counted", "charged"), [([], 70), ([60], 60), ([50, 50, 90], 90)])
def test_a_request_is_charged_for_counted_tokens_or_else_for_the_estimate(counted: list[int], charged: int) -> None:
    limiter, quota = Limiter(), Quota(tokens_per_minute=60)
    limiter.admit("acme", quota, 0)
    with suppress(RuntimeError), limiter.track_request("acme") as charge:
        charge.estimated_tokens = 70
        for tokens in counted:
            charge.update(tokens)
        raise RuntimeError("the request fails")
    with pytest.raises(RateLimited) as error:
        limiter.admit("acme", quota, 0)
    assert error.value.retry_after_s == charged - 60 + 1


def test_a_tenant_without_limits_has_the_default_ones() -> None:
    limiter = Limiter(Quota(requests_per_minute=1))
    limiter.admit("acme", Quota(), 0)
    with pytest.raises(RateLimited):
        limiter.admit("acme", Quota(), 0)
    for _ in range(5):
        limiter.admit("large", Quota(requests_per_minute=5), 0)
    unlimited = Limiter()
    for _ in range(100):
        unlimited.admit("acme", Quota(), 0)
        unlimited.charge("acme", 10**6)


def test_a_changed_limit_applies_to_the_next_request() -> None:
    limiter = Limiter()
    for _ in range(10):
        limiter.admit("acme", Quota(requests_per_minute=100), 0)
    for _ in range(2):
        limiter.admit("acme", Quota(requests_per_minute=2), 0)
    with pytest.raises(RateLimited):
        limiter.admit("acme", Quota(requests_per_minute=2), 0)
    limiter.admit("acme", Quota(), 0)


def test_concurrent_requests_are_limited_per_tenant() -> None:
    limiter = Limiter(max_concurrent=2)
    with limiter.track_request("acme"):
        with limiter.track_request("acme"):
            with pytest.raises(RateLimited, match="has 2 concurrent sequences") as error, limiter.track_request("acme"):
                raise AssertionError("unreachable")
            with limiter.track_request("other"):
                pass
        with limiter.track_request("acme"):
            pass
    assert error.value.retry_after_s == 1


def add_sequences(charge: Any, num_seqs: int, now: float = 0) -> None:
    asyncio.run(charge.add_sequences(num_seqs, now))


def test_each_sequence_of_a_request_counts_as_concurrent_until_it_ends() -> None:
    limiter = Limiter(max_concurrent=4)
    with limiter.track_request("acme") as charge:
        with limiter.track_request("acme") as other:
            with pytest.raises(RateLimited, match="has 1 concurrent sequences, and the request has 4"):
                add_sequences(other, 4)
            add_sequences(other, 3)
            with pytest.raises(RateLimited), limiter.track_request("acme"):
                raise AssertionError("unreachable")
        add_sequences(charge, 4)
        with pytest.raises(RateLimited), limiter.track_request("acme"):
            raise AssertionError("unreachable")
    with limiter.track_request("acme") as charge:
        add_sequences(charge, 5)  # more than the maximum, but alone
    assert not limiter.limiter._concurrent


def test_each_sequence_of_a_request_counts_as_a_request() -> None:
    limiter, quota = Limiter(max_concurrent=99), Quota(requests_per_minute=6)
    with limiter.track_request("acme") as charge:
        limiter.admit("acme", quota, 0)
        add_sequences(charge, 4)
        limiter.admit("acme", quota, 0)
        with pytest.raises(RateLimited, match=r"retry in 10\.0 s"):
            add_sequences(charge, 3)  # the refused request costs nothing
        limiter.admit("acme", quota, 0)
        limiter.admit("acme", quota, 0)
        with pytest.raises(RateLimited):
            limiter.admit("acme", quota, 0)


def test_a_full_bucket_admits_a_request_of_more_sequences_than_the_limit() -> None:
    limiter, quota = Limiter(max_concurrent=99), Quota(requests_per_minute=6)
    with limiter.track_request("acme") as charge:
        limiter.admit("acme", quota, 0)
        add_sequences(charge, 12)
    with pytest.raises(RateLimited) as error:
        limiter.admit("acme", quota, 0)
    assert error.value.retry_after_s == pytest.approx(70)
