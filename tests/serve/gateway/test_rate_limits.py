from contextlib import suppress

import pytest

from looper.platform.catalog import Quota
from looper.platform.domain.errors import OverLimit
from looper.serve.gateway.rate_limits import TenantRateLimiter


def test_a_minute_s_requests_may_come_at_once_and_then_come_back_one_by_one() -> None:
    limits, quota = TenantRateLimiter(Quota(), 1), Quota(requests_per_minute=6)
    for _ in range(6):
        limits.admit("acme", quota, 0)
    with pytest.raises(OverLimit, match="6 requests a minute") as refused:
        limits.admit("acme", quota, 4)
    assert refused.value.retry_after_s == pytest.approx(6)
    limits.admit("acme", quota, 10)
    with pytest.raises(OverLimit):
        limits.admit("acme", quota, 10)
    limits.admit("other", quota, 10)


def test_tokens_are_paid_afterwards_and_a_debt_is_waited_off() -> None:
    limits, quota = TenantRateLimiter(Quota(), 1), Quota(tokens_per_minute=600)
    limits.admit("acme", quota, 0)
    limits.pay("acme", 900)
    with pytest.raises(OverLimit, match="600 tokens a minute") as refused:
        limits.admit("acme", quota, 1)
    assert refused.value.retry_after_s == pytest.approx(29.1)
    limits.admit("acme", quota, 31)


@pytest.mark.parametrize(("counted", "paid"), [([], 70), ([60], 60), ([50, 50, 90], 90)])
def test_tokens_are_paid_as_they_are_counted_and_as_expected_if_nobody_has(counted: list[int], paid: int) -> None:
    limits, quota = TenantRateLimiter(Quota(), 1), Quota(tokens_per_minute=60)
    limits.admit("acme", quota, 0)
    with suppress(RuntimeError), limits.place("acme") as bill:
        bill.expected = 70
        for tokens in counted:
            bill.reach(tokens)
        raise RuntimeError("whatever way it ends")
    with pytest.raises(OverLimit) as refused:
        limits.admit("acme", quota, 0)
    assert refused.value.retry_after_s == paid - 60 + 1


def test_what_has_no_limit_of_its_own_has_the_default_and_without_any_is_free() -> None:
    limits = TenantRateLimiter(Quota(requests_per_minute=1), 1)
    limits.admit("acme", Quota(), 0)
    with pytest.raises(OverLimit):
        limits.admit("acme", Quota(), 0)
    for _ in range(5):
        limits.admit("large", Quota(requests_per_minute=5), 0)
    free = TenantRateLimiter(Quota(), 1)
    for _ in range(100):
        free.admit("acme", Quota(), 0)
        free.pay("acme", 10**6)


def test_a_limit_that_was_changed_holds_from_the_next_request() -> None:
    limits = TenantRateLimiter(Quota(), 1)
    for _ in range(10):
        limits.admit("acme", Quota(requests_per_minute=100), 0)
    for _ in range(2):
        limits.admit("acme", Quota(requests_per_minute=2), 0)
    with pytest.raises(OverLimit):
        limits.admit("acme", Quota(requests_per_minute=2), 0)
    limits.admit("acme", Quota(), 0)


def test_a_tenant_has_so_many_requests_at_once_and_takes_nobody_s_place() -> None:
    limits = TenantRateLimiter(Quota(), 2)
    with limits.place("acme"):
        with limits.place("acme"):
            with pytest.raises(OverLimit, match="2 requests here already") as refused, limits.place("acme"):
                raise AssertionError("unreachable")
            with limits.place("other"):
                pass
        with limits.place("acme"):
            pass
    assert refused.value.retry_after_s == 1
