"""Keeps the control plane from taking what inference needs: its own threads, and limits per tenant or operator's key.

The routes of ``/api/v1`` share one ``RequestGate``. The state is in this gateway's memory, so each of several gateways
allows the full limits.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Response
from pydantic_core import to_json

from looper.platform.domain.errors import RateLimited
from looper.platform.settings import ApiSettings
from looper.platform.tenancy.token_bucket import TokenBucket

NUM_THREADS = 8
"""Number of threads, and so of connections to the catalog, that the control plane uses at the same time."""


class RequestGate:
    """Threads and limits of the control plane.

    Args:
        limits: Limits of each tenant, and of each operator's key.

    Attributes:
        threads: Limits the threads in which the control plane works. Other threads of the process are not affected.
    """

    def __init__(self, limits: ApiSettings) -> None:
        self._limits = limits
        self._concurrent = Counter[str]()
        self._buckets: dict[str, TokenBucket] = {}
        self.threads = anyio.CapacityLimiter(NUM_THREADS)

    @contextmanager
    def admit(self, account: str) -> Iterator[None]:
        """Count a request as concurrent while the context is open.

        Args:
            account: Whose limits it counts against, such as ``tenant acme``.

        Yields:
            Nothing.

        Raises:
            RateLimited: One of the limits is reached.
        """
        if self._concurrent[account] >= self._limits.max_concurrent_requests:
            raise RateLimited(
                f"{account} already has {self._limits.max_concurrent_requests} concurrent requests on /api/v1: "
                "retry when one has ended",
                retry_after_s=1,
            )
        bucket = self._bucket(account)
        if wait_s := bucket.seconds_until(1):
            raise RateLimited(
                f"{account} has reached its limit of {bucket.per_minute} requests per minute on /api/v1: "
                f"retry in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )
        bucket.level -= 1
        self._concurrent[account] += 1
        try:
            yield
        finally:
            self._concurrent[account] -= 1
            if not self._concurrent[account]:
                del self._concurrent[account]

    def in_threads(self, endpoint: Callable[..., Any], status: int | None) -> Callable[..., Awaitable[Any]]:
        """Make an endpoint run in the control plane's threads, with the JSON of its response.

        FastAPI by itself runs endpoints in threads that all routes of the process share.

        Args:
            endpoint: Endpoint of a route.
            status: HTTP status of its responses; None for 200.

        Returns:
            An asynchronous endpoint. One that is asynchronous already is returned as it is.
        """
        if iscoroutinefunction(endpoint):
            return endpoint

        def respond(**arguments: Any) -> Response:
            result = endpoint(**arguments)
            if isinstance(result, Response):
                return result
            return Response(to_json(result), status or 200, media_type="application/json")

        @wraps(endpoint)
        async def respond_in_thread(**arguments: Any) -> Response:
            return await anyio.to_thread.run_sync(partial(respond, **arguments), limiter=self.threads)

        return respond_in_thread

    def _bucket(self, account: str) -> TokenBucket:
        per_minute, now = self._limits.requests_per_minute, time.monotonic()
        bucket = self._buckets.setdefault(account, TokenBucket(per_minute, per_minute, now))
        bucket.refill(now)
        return bucket
