"""Rate limits of tenants: sequences that wait or run, and requests and tokens per minute. Used by ``openai_app``.

A request counts as often as it has sequences (prompts times choices or beams), because each of them takes as much of an
engine as a request of its own. The limit of concurrent sequences costs a tenant nothing: a longer queue of its own
requests would not make them faster, it would only take the machine from the requests that are running. The number of
tokens of a request is known only while it is answered, so a budget of tokens may become negative, and the next request
waits until it is positive again. ``budgets`` holds the limits per minute over all gateways. Of a limit of concurrent
sequences that is set, each gateway allows its even share.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from looper.platform.catalog import Quota
from looper.platform.domain.errors import RateLimited
from looper.serve.gateway.budgets import Budget, BudgetSource


class RequestCharge:
    """Charges one request to its tenant: its sequences once they are known, and its tokens while they are counted.

    A client cannot avoid the charge by closing the connection early.

    Args:
        limiter: Limits of the tenants.
        tenant: The tenant.
    """

    def __init__(self, limiter: "TenantRateLimiter", tenant: str) -> None:
        self._limiter = limiter
        self._tenant = tenant
        self._charged: int | None = None
        self.num_seqs = 1
        """Sequences that are counted as concurrent."""
        self.estimated_tokens = 0
        """Tokens to charge if the request ends before the engine has counted any."""

    async def add_sequences(self, num_seqs: int, now: float) -> None:
        """Charge the sequences beyond the first, which is charged on arrival.

        Args:
            num_seqs: Number of sequences of the request.
            now: Time in seconds of a monotonic clock.

        Raises:
            RateLimited: The tenant's limits do not allow so many. Then the request costs nothing.
        """
        self._limiter.count_sequences(self._tenant, self, num_seqs)
        await self._limiter.charge_sequences(self._tenant, num_seqs, now)

    def update(self, total_tokens: int) -> None:
        """Charge the tokens that were counted since the last call.

        Args:
            total_tokens: Prompt and generated tokens of the request so far.
        """
        self._limiter.charge(self._tenant, total_tokens - (self._charged or 0))
        self._charged = total_tokens

    def settle(self) -> None:
        """Charge the estimate if no tokens were counted. Called at the end of the request."""
        if self._charged is None:
            self._limiter.charge(self._tenant, self.estimated_tokens)


class TenantRateLimiter:
    """The rate limits of all tenants.

    Args:
        default: Limits of a tenant that has none of its own.
        max_concurrent: Maximum number of sequences of one tenant that wait or run at this gateway.
        budgets: Creates the budgets of the limits per minute.
    """

    def __init__(self, default: Quota, max_concurrent: int, budgets: BudgetSource) -> None:
        self._default = default
        self._max_concurrent = max_concurrent
        self._concurrent: Counter[str] = Counter()
        self._source = budgets
        self._budgets: dict[tuple[str, str], Budget] = {}

    @contextmanager
    def track_request(self, tenant: str) -> Iterator[RequestCharge]:
        """Count a request's sequences as concurrent while the context is open, and settle its charge at the end.

        Args:
            tenant: The tenant.

        Yields:
            The charge of this request.

        Raises:
            RateLimited: The tenant has the maximum number of concurrent sequences.
        """
        charge = RequestCharge(self, tenant)
        charge.num_seqs = 0
        self.count_sequences(tenant, charge, 1)
        try:
            yield charge
        finally:
            charge.settle()
            self._concurrent[tenant] -= charge.num_seqs
            if not self._concurrent[tenant]:
                del self._concurrent[tenant]

    def count_sequences(self, tenant: str, charge: RequestCharge, num_seqs: int) -> None:
        """Count a request's sequences as concurrent. A request that is alone may have any number.

        Args:
            tenant: The tenant.
            charge: Charge of the request.
            num_seqs: Number of its sequences.

        Raises:
            RateLimited: The tenant would have more than the maximum number of concurrent sequences.
        """
        others = self._concurrent[tenant] - charge.num_seqs
        if others and others + num_seqs > self._max_concurrent:
            raise RateLimited(
                f"tenant {tenant} has {others} concurrent sequences, and the request has {num_seqs}, but the maximum "
                f"is {self._max_concurrent}: retry when others have ended",
                retry_after_s=1,
            )
        self._concurrent[tenant] += num_seqs - charge.num_seqs
        charge.num_seqs = num_seqs

    async def admit(self, tenant: str, quota: Quota, now: float) -> None:
        """Take one request from the tenant's budget.

        Args:
            tenant: The tenant.
            quota: The tenant's own limits.
            now: Time in seconds of a monotonic clock.

        Raises:
            RateLimited: The budget of requests or of tokens is used up.
        """
        requests = self._budget(tenant, "requests", quota.requests_per_minute or self._default.requests_per_minute, now)
        tokens = self._budget(tenant, "tokens", quota.tokens_per_minute or self._default.tokens_per_minute, now)
        budgets = [(unit, budget) for unit, budget in (("requests", requests), ("tokens", tokens)) if budget]
        while True:
            for unit, budget in budgets:
                await _replenish(tenant, unit, budget, 1, now)
            if all(budget.holds(1) for _, budget in budgets):  # else another request of the tenant was faster
                break
        if requests is not None:
            requests.take(1)

    async def charge_sequences(self, tenant: str, num_seqs: int, now: float) -> None:
        """Take a request's sequences beyond the first from the tenant's budget of requests.

        Args:
            tenant: The tenant.
            num_seqs: Number of sequences of the request.
            now: Time in seconds of a monotonic clock.

        Raises:
            RateLimited: The budget does not hold so much. Then the first is given back.
        """
        budget, more = self._budgets.get((tenant, "requests")), num_seqs - 1
        if budget is None or not more:
            return
        budget.take(-1)
        needed = min(num_seqs, budget.per_minute)  # a full budget admits a request of any size
        while not budget.holds(needed):
            await _replenish(tenant, "requests", budget, needed, now)
        budget.take(num_seqs)

    def charge(self, tenant: str, tokens: int) -> None:
        """Take tokens from the tenant's budget.

        Args:
            tenant: The tenant.
            tokens: Number of prompt and generated tokens.
        """
        budget = self._budgets.get((tenant, "tokens"))
        if budget is not None and tokens:
            budget.take(tokens)

    def _budget(self, tenant: str, unit: str, per_minute: int | None, now: float) -> Budget | None:
        if per_minute is None:
            self._budgets.pop((tenant, unit), None)
            return None
        budget = self._budgets.get((tenant, unit))
        if budget is None:
            budget = self._budgets[tenant, unit] = self._source.open(tenant, unit, per_minute, now)
        budget.per_minute = per_minute
        return budget


async def _replenish(tenant: str, unit: str, budget: Budget, amount: float, now: float) -> None:
    if wait_s := await budget.replenish(amount, now):
        raise RateLimited(
            f"tenant {tenant} has reached its limit of {budget.per_minute} {unit} per minute: retry in {wait_s:.1f} s",
            retry_after_s=wait_s,
        )
