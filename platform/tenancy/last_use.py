"""Records when API keys were last used, off the path of requests. ``api/authenticated_route.py`` uses it."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from looper.platform.catalog.keys import LAST_USE_INTERVAL_S
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.tenancy.keys import KeyReader

MAX_REMEMBERED_KEYS = 10_000
"""Above this number of keys, those that were used more than an interval ago are forgotten."""

log = logging.getLogger(__name__)


class LastUseRecorder:
    """Writes the time of last use of keys to the catalog, in one thread of its own.

    Args:
        catalog: Catalog with the keys.
    """

    def __init__(self, catalog: KeyReader) -> None:
        self._catalog = catalog
        self._recorded: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="last-use")  # starts with the first key

    def record(self, id: str) -> None:
        """Note that the key with this ``id`` is in use. It never waits, and writes at most once a minute per key."""
        now = time.monotonic()
        if now - self._recorded.get(id, -LAST_USE_INTERVAL_S) < LAST_USE_INTERVAL_S:
            return
        if len(self._recorded) >= MAX_REMEMBERED_KEYS:
            self._recorded = {id: at for id, at in self._recorded.items() if now - at < LAST_USE_INTERVAL_S}
        self._recorded[id] = now
        self._thread.submit(self._write, id)

    def _write(self, id: str) -> None:
        try:
            self._catalog.record_key_use(id)
        except StoreUnavailable as error:
            log.warning("the last use of key %s was not recorded: %s", id, error.detail)
