"""Counts what runs at the same time, by tenant and in all: uploads and downloads of the control plane."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from looper.platform.domain.errors import Overloaded, RateLimited

RETRY_AFTER_S = 5.0
"""Time after which a client that was refused should try again, in seconds."""


class ConcurrencyLimits:
    """Limits how much of one kind of work of one gateway runs at the same time. Used on one event loop.

    Args:
        kind: What is limited, in the plural.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._running = Counter[str]()

    @contextmanager
    def acquire(self, tenant: str, max_per_tenant: int, max_total: int) -> Iterator[None]:
        """Count one as running while the context is open.

        Args:
            tenant: The tenant whose work it is.
            max_per_tenant: Maximum that may run of one tenant.
            max_total: Maximum that may run of all tenants.

        Yields:
            Nothing.

        Raises:
            RateLimited: As many of the tenant run already.
            Overloaded: As many of all tenants run already.
        """
        if self._running[tenant] >= max_per_tenant:
            raise RateLimited(
                f"tenant {tenant} already has {max_per_tenant} {self._kind}: retry when one has ended",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._running.total() >= max_total:
            raise Overloaded(f"the server has too many {self._kind}: try again", retry_after_s=RETRY_AFTER_S)
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]
