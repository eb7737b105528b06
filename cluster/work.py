"""Working the queue from a command, for machines on which nothing is up."""

import time
from collections.abc import Sequence
from pathlib import Path

from looper.jobs import foreman
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def work_until_done(
    catalog: Catalog, store: ObjectStore, settings: Settings, model_dir: Path, ids: Sequence[str]
) -> None:
    """Claim and work on the current Ray until each of ``ids`` has ended. Whatever else waits is worked on, too.

    What a process that died still holds is waited for: its lease runs out.
    """
    owner = foreman.new_owner()
    while not all(catalog.consolidation(id).state.final for id in ids):
        if not foreman.run_once(catalog, store, settings, model_dir, owner):
            time.sleep(1)
