"""Rate limits of tenants: concurrent requests, and token buckets that fill up within a minute. Used by ``openai_app``.

The state is in this gateway's memory, so each of several gateways allows the full limit. The limit of concurrent
requests costs a tenant nothing: a longer queue of its own requests would not make them faster, it would only take the
machine from the requests that are running. The number of tokens of a request is known only while it is answered, so a
bucket of tokens may become negative, and the next request waits until it is positive again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from looper.platform.catalog import Quota
from looper.platform.domain.errors import RateLimited


@dataclass
class TokenBucket:
    """A token bucket whose capacity is what it gains in one minute."""

    per_minute: int
    """Capacity, and the amount that it gains per minute."""
    level: float
    """What it holds now. Negative: more was used than it held."""
    updated_at: float
    """Time of the last refill, in seconds of a monotonic clock."""

    def refill(self, now: float) -> None:
        """Add what the bucket has gained since the last refill.

        Args:
            now: Time in seconds of the same clock.
        """
        self.level = min(self.per_minute, self.level + (now - self.updated_at) * self.per_minute / 60)
        self.updated_at = now

    def seconds_until(self, amount: float) -> float:
        """Return how long it takes until the bucket holds an amount.

        Args:
            amount: The amount.

        Returns:
            Seconds, 0 if the bucket holds it now.
        """
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


class TokenCharge:
    """Charges the tokens of one request to its tenant while they are counted.

    A client cannot avoid the charge by closing the connection early.

    Args:
        charge: Called with the number of additional tokens.
    """

    def __init__(self, charge: Callable[[int], None]) -> None:
        self._charge = charge
        self._charged: int | None = None
        self.estimated_tokens = 0
        """Tokens to charge if the request ends before the engine has counted any."""

    def update(self, total_tokens: int) -> None:
        """Charge the tokens that were counted since the last call.

        Args:
            total_tokens: Prompt and generated tokens of the request so far.
        """
        self._charge(total_tokens - (self._charged or 0))
        self._charged = total_tokens

    def settle(self) -> None:
        """Charge the estimate if no tokens were counted. Called at the end of the request."""
        if self._charged is None:
            self._charge(self.estimated_tokens)


class TenantRateLimiter:
    """The rate limits of all tenants.

    Args:
        default: Limits of a tenant that has none of its own.
        max_concurrent: Maximum number of requests of one tenant that wait or run.
    """

    def __init__(self, default: Quota, max_concurrent: int) -> None:
        self._default = default
        self._max_concurrent = max_concurrent
        self._concurrent: Counter[str] = Counter()
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    @contextmanager
    def track_request(self, tenant: str) -> Iterator[TokenCharge]:
        """Count a request as concurrent while the context is open, and settle its charge at the end.

        Args:
            tenant: The tenant.

        Yields:
            The charge of this request.

        Raises:
            RateLimited: The tenant has the maximum number of concurrent requests.
        """
        if self._concurrent[tenant] >= self._max_concurrent:
            raise RateLimited(
                f"tenant {tenant} already has {self._max_concurrent} concurrent requests: retry when one has ended",
                retry_after_s=1,
            )
        self._concurrent[tenant] += 1
        charge = TokenCharge(partial(self.charge, tenant))
        try:
            yield charge
        finally:
            charge.settle()
            self._concurrent[tenant] -= 1
            if not self._concurrent[tenant]:
                del self._concurrent[tenant]

    def admit(self, tenant: str, quota: Quota, now: float) -> None:
        """Take one request from the tenant's bucket.

        Args:
            tenant: The tenant.
            quota: The tenant's own limits.
            now: Time in seconds of a monotonic clock.

        Raises:
            RateLimited: The bucket of requests or of tokens is empty.
        """
        requests = self._bucket(tenant, "requests", quota.requests_per_minute or self._default.requests_per_minute, now)
        tokens = self._bucket(tenant, "tokens", quota.tokens_per_minute or self._default.tokens_per_minute, now)
        for unit, bucket in (("requests", requests), ("tokens", tokens)):
            if bucket is not None and (wait_s := bucket.seconds_until(1)):
                raise RateLimited(
                    f"tenant {tenant} has reached its limit of {bucket.per_minute} {unit} per minute: "
                    f"retry in {wait_s:.1f} s",
                    retry_after_s=wait_s,
                )
        if requests is not None:
            requests.level -= 1

    def charge(self, tenant: str, tokens: int) -> None:
        """Take tokens from the tenant's bucket.

        Args:
            tenant: The tenant.
            tokens: Number of prompt and generated tokens.
        """
        bucket = self._buckets.get((tenant, "tokens"))
        if bucket is not None:
            bucket.level -= tokens

    def _bucket(self, tenant: str, unit: str, per_minute: int | None, now: float) -> TokenBucket | None:
        if per_minute is None:
            self._buckets.pop((tenant, unit), None)
            return None
        bucket = self._buckets.setdefault((tenant, unit), TokenBucket(per_minute, per_minute, now))
        bucket.per_minute = per_minute
        bucket.refill(now)
        return bucket
