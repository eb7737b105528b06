"""Working the queue from a command, for machines on which nothing is up."""

from collections.abc import Sequence
from pathlib import Path

from looper.jobs.queue import worker as foreman
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def run_until_complete(
    catalog: Catalog, store: ObjectStore, settings: Settings, model_dir: Path, ids: Sequence[str]
) -> None:
    """Work the queue on the current Ray until each of ``ids`` has ended. Whatever else waits is worked on, too.

    What a process that died still holds is waited for: its lease runs out.
    """

    def ended() -> bool:
        return all(job.state.final for job in catalog.consolidations_by_id(ids))

    foreman.work_queue(catalog, store, settings, model_dir, ended)
