"""Counts what runs at the same time, by tenant and in all: uploads and downloads of the control plane."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from looper.platform.domain.errors import Overloaded, RateLimited

RETRY_AFTER_S = 5.0
"""Time after which a client should try again that found no place, in seconds."""


class Places:
    """Places for one kind of work of one gateway. Used on one event loop.

    Args:
        kind: What takes the places, in the plural.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._taken = Counter[str]()

    @contextmanager
    def take(self, tenant: str, max_per_tenant: int, max_total: int) -> Iterator[None]:
        """Take a place while the context is open.

        Args:
            tenant: The tenant whose place it is.
            max_per_tenant: Maximum number of places of one tenant.
            max_total: Maximum number of places of all tenants.

        Yields:
            Nothing.

        Raises:
            RateLimited: The tenant has no place left.
            Overloaded: All tenants together have none.
        """
        if self._taken[tenant] >= max_per_tenant:
            raise RateLimited(
                f"tenant {tenant} already has {max_per_tenant} {self._kind}: retry when one has ended",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._taken.total() >= max_total:
            raise Overloaded(f"the server has too many {self._kind}: try again", retry_after_s=RETRY_AFTER_S)
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
