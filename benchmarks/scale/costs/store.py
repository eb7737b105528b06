"""What listings of the object store cost: a worker's search for orphaned checkpoints, a gateway's look at markers."""

import time
from collections.abc import Callable, Sequence
from typing import cast

from looper.benchmarks.scale.costs.rows import CostRow
from looper.jobs.consolidation.training.checkpoint import delete_orphaned_checkpoints
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.revocation import list_markers

OBJECTS_PER_CONSOLIDATION = 10
"""Objects of the checkpoints of one consolidation: two steps of a cohort, and its candidate."""


class _UnendedCatalog:
    """A catalog in which no consolidation has ended."""

    def filter_ended(self, ids: Sequence[str]) -> list[str]:
        assert ids
        return []


def measure_listings(store: ObjectStore, counts: Sequence[int], notify: Callable[[str], None]) -> list[CostRow]:
    """Write empty objects and measure listings.

    Args:
        store: An empty object store.
        counts: Numbers of objects, ascending.
        notify: Called with a line of text before each step.

    Returns:
        The rows.
    """
    rows, written, catalog = [], 0, cast(Catalog, _UnendedCatalog())
    for count in counts:
        notify(f"object store: {count:,} objects")
        for number in range(written, count):
            consolidation = f"{number // OBJECTS_PER_CONSOLIDATION:032x}"
            store.put(f"{keys.checkpoints(consolidation)}/step-00000001/{number % OBJECTS_PER_CONSOLIDATION}", b"")
            if number % OBJECTS_PER_CONSOLIDATION == 0:
                store.put(keys.revocation("version", f"{number:064x}"), b"")
        written = count
        for what, size, action in (
            ("all objects of the checkpoints", count, lambda: store.list(keys.CHECKPOINTS)),
            ("search for orphaned checkpoints", count, lambda: delete_orphaned_checkpoints(catalog, store)),
            ("markers of revocations", count // OBJECTS_PER_CONSOLIDATION, lambda: list_markers(store)),
        ):
            begin_s = time.perf_counter()
            action()
            rows.append(CostRow(f"listing: {what}", "objects", size, "s", time.perf_counter() - begin_s))
    return rows
