"""What a tenant may ask: so many requests at once, and token buckets that fill within a minute.

In a gateway's memory: several gateways each allow the whole. Who has a whole line waiting gains nothing by a longer
one; it would only take the machine, request by request, from those that are answered. What a request costs in tokens
shows while it is answered, so a bucket of tokens may go below nothing, and the next request waits until it is above
again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from looper.platform.catalog import Quota
from looper.platform.domain.errors import OverLimit


@dataclass
class TokenBucket:
    """Holds a minute's worth at most."""

    per_minute: int
    level: float
    at: float

    def fill(self, now: float) -> None:
        self.level = min(self.per_minute, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now

    def lacks_s(self, wanted: float) -> float:
        """How long until there is as much as ``wanted``."""
        return max(0.0, (wanted - self.level) * 60 / self.per_minute)


class Bill:
    """What one request costs its tenant, paid as it becomes known: nobody can end a request before it is paid."""

    def __init__(self, pay: Callable[[int], None]) -> None:
        self._pay = pay
        self._paid: int | None = None
        self.expected = 0
        """Tokens to pay if the request ends before the engine has counted any."""

    def reach(self, tokens: int) -> None:
        """So many have been read and generated in all until now."""
        self._pay(tokens - (self._paid or 0))
        self._paid = tokens

    def settle(self) -> None:
        """The request has ended."""
        if self._paid is None:
            self._pay(self.expected)


class TenantRateLimiter:
    """Of all tenants."""

    def __init__(self, default: Quota, at_once: int) -> None:
        self._default = default
        self._at_once = at_once
        self._here: Counter[str] = Counter()
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    @contextmanager
    def place(self, tenant: str) -> Iterator[Bill]:
        """Inside, the tenant has one request more here; its bill is settled at the end, however that comes.

        Raises OverLimit if the tenant has as many requests here as it may.
        """
        if self._here[tenant] >= self._at_once:
            reason = f"tenant {tenant} has {self._at_once} requests here already: ask again when one is answered"
            raise OverLimit(reason, retry_after_s=1)
        self._here[tenant] += 1
        bill = Bill(partial(self.pay, tenant))
        try:
            yield bill
        finally:
            bill.settle()
            self._here[tenant] -= 1
            if not self._here[tenant]:
                del self._here[tenant]

    def admit(self, tenant: str, quota: Quota, now: float) -> None:
        """Take one request from the tenant's bucket. Raises OverLimit if that, or the tokens', is empty.

        ``now`` is in seconds of a clock that never goes back.
        """
        requests = self._bucket(tenant, "requests", quota.requests_per_minute or self._default.requests_per_minute, now)
        tokens = self._bucket(tenant, "tokens", quota.tokens_per_minute or self._default.tokens_per_minute, now)
        for what, bucket in (("requests", requests), ("tokens", tokens)):
            if bucket is not None and (wait_s := bucket.lacks_s(1)):
                reason = f"tenant {tenant} may use {bucket.per_minute} {what} a minute: ask again in {wait_s:.1f} s"
                raise OverLimit(reason, retry_after_s=wait_s)
        if requests is not None:
            requests.level -= 1

    def pay(self, tenant: str, tokens: int) -> None:
        """So many tokens were read or generated for a request of the tenant."""
        bucket = self._buckets.get((tenant, "tokens"))
        if bucket is not None:
            bucket.level -= tokens

    def _bucket(self, tenant: str, what: str, per_minute: int | None, now: float) -> TokenBucket | None:
        if per_minute is None:
            self._buckets.pop((tenant, what), None)
            return None
        bucket = self._buckets.setdefault((tenant, what), TokenBucket(per_minute, per_minute, now))
        bucket.per_minute = per_minute
        bucket.fill(now)
        return bucket
