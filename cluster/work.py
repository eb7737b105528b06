"""Working the queue from a command, for machines on which nothing is up."""

import time
from collections.abc import Sequence
from pathlib import Path

from looper.jobs import foreman
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings

LOOK_S = 0.5
"""Between two looks at whether all has ended."""


def work_until_done(
    catalog: Catalog, store: ObjectStore, settings: Settings, model_dir: Path, ids: Sequence[str]
) -> None:
    """Work the queue on the current Ray until each of ``ids`` has ended. Whatever else waits is worked on, too.

    What a process that died still holds is waited for: its lease runs out.
    """
    with foreman.at_work(catalog, store, settings, model_dir):
        while not all(catalog.consolidation(id).state.final for id in ids):
            time.sleep(LOOK_S)
