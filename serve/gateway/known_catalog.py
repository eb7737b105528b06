"""Reads keys, limits and model names from the catalog, and goes on from what it knows while the catalog is away.

While the catalog responds, each request reads it, so that a promotion applies to the next request. What was read is
kept for when the catalog is down or hangs. All routes of ``/v1`` read the catalog through it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Any, Literal, TypeVar

from looper.platform.catalog import ApiKey, Catalog, Quota, Revocation, RouteTarget
from looper.platform.domain.errors import NotFound, StoreUnavailable
from looper.platform.domain.names import ModelName
from looper.serve.gateway.revocation import RevocationWatcher

REQUEST_TIMEOUT_S = 1.0
"""How long a request waits for one statement of the catalog, in seconds, before it is served from what is known."""

RETRY_INTERVAL_S = 2.0
"""How long no request asks a catalog that has failed, in seconds. ``RevocationWatcher`` finds out earlier."""

MAX_KNOWN = 20_000
"""Number of answers that are kept. The one that was read least recently is forgotten first."""

T = TypeVar("T")


class KnownCatalog:
    """The catalog, as requests for inference see it. Thread-safe.

    Args:
        catalog: The catalog. Its calls must end after about ``REQUEST_TIMEOUT_S``.
        watcher: Knows what is revoked, and whether the catalog responds.
        outage_s: How old an answer may be when it is used in place of the catalog's, in seconds.
    """

    def __init__(self, catalog: Catalog, watcher: RevocationWatcher, outage_s: float) -> None:
        self._catalog = catalog
        self._watcher = watcher
        self._outage_s = outage_s
        self._known: OrderedDict[tuple[str, object], tuple[float, Any]] = OrderedDict()
        self._lock = Lock()
        self._failed_at: float | None = None

    @property
    def health(self) -> Literal["ok", "degraded", "unavailable"]:
        """``degraded``: only what is known is served. ``unavailable``: nothing is."""
        if not self._watcher.is_confirmed:
            return "unavailable"
        return "degraded" if self._is_away() else "ok"

    def get_key(self, id: str) -> ApiKey:
        """Return the API key with this ``id``.

        Raises:
            NotFound: There is no such key, or it is revoked.
            StoreUnavailable: The catalog is away, and the key is not known.
        """
        key = self._read(("key", id), lambda: self._catalog.get_key(id))
        if self._watcher.is_revoked(Revocation("key", id)):
            raise NotFound(f"key {id} is revoked")
        return key

    def now(self) -> datetime:
        """Return the current time by the catalog's clock."""
        return self._watcher.estimate_catalog_time()

    def record_key_use(self, id: str) -> None:
        """Write that the key with this ``id`` is in use now, unless the catalog is away."""
        if not self._is_away():
            self._catalog.record_key_use(id)

    def get_quota(self, tenant: str) -> Quota:
        """Return the rate limits of ``tenant``.

        Raises:
            NotFound: The tenant does not exist.
            StoreUnavailable: The catalog is away, and the limits are not known.
        """
        return self._read(("quota", tenant), lambda: self._catalog.get_quota(tenant))

    def resolve_targets(self, model: ModelName) -> list[RouteTarget]:
        """Return the versions that may answer a request for ``model``, without those that are revoked.

        Raises:
            NotFound: There is no such model, or its version is revoked.
            StoreUnavailable: The catalog is away, and the name is not known.
        """
        targets = self._read(("model", model), lambda: self._catalog.resolve_targets(model))
        valid = [target for target in targets if not self._watcher.is_revoked(Revocation("version", target.digest))]
        if not valid or valid[0] != targets[0]:  # without ``prod``, its canaries do not answer for it
            raise NotFound(f"model {model} does not exist")
        return valid

    def list_skills(self, tenant: str, *, after: str | None, limit: int) -> list[Any]:
        """List the instances of ``tenant`` with a ``prod`` channel: at most ``limit`` after the name ``after``.

        Raises:
            StoreUnavailable: The catalog is away.
        """
        if self._is_away():
            raise _away()
        return self._catalog.list_skills(tenant, after=after, limit=limit)

    def _read(self, question: tuple[str, object], query: Callable[[], T]) -> T:
        known: T
        if self._is_away():
            known = self._recall(question, _away())
            return known
        started_at = time.monotonic()
        try:
            answer = query()
        except StoreUnavailable as error:
            self._failed_at = time.monotonic()
            known = self._recall(question, error)
            return known
        except NotFound:
            with self._lock:
                self._known.pop(question, None)
            raise
        with self._lock:
            self._known[question] = started_at, answer
            self._known.move_to_end(question)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return answer

    def _is_away(self) -> bool:
        """Return whether requests should not ask the catalog, because it has just failed."""
        if not self._watcher.is_reading:
            return True
        failed_at = self._failed_at
        if failed_at is None or failed_at < self._watcher.confirmed_at:
            return False
        return time.monotonic() < failed_at + RETRY_INTERVAL_S

    def _recall(self, question: tuple[str, object], error: StoreUnavailable) -> Any:
        with self._lock:
            read_at, answer = self._known.get(question, (None, None))
        if read_at is None or time.monotonic() - read_at > self._outage_s or not self._watcher.is_confirmed:
            raise error
        return answer


def _away() -> StoreUnavailable:
    return StoreUnavailable("the catalog does not respond: try again")
