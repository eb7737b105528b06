"""Works the queue inside a command, on machines where no cluster runs: ``looper consolidate --wait`` and the demo."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.queue import worker
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def run_until_complete(
    catalog: Catalog, store: ObjectStore, settings: Settings, folders: Mapping[str, Path], ids: Sequence[str]
) -> None:
    """Work the queue on the current Ray until certain consolidations have ended.

    Other consolidations in the queue are worked on, too. If a dead process still holds the lease of one, this waits
    until the lease has expired.

    Args:
        catalog: Catalog with the queue.
        store: Object store of the cluster.
        settings: Settings of the cluster.
        folders: Folders of the prepared base models, by name.
        ids: Ids of the consolidations to wait for.
    """

    def have_ended() -> bool:
        return all(job.state.is_final for job in catalog.get_consolidations(ids))

    bases = {name: BaseModelSource(folder) for name, folder in folders.items()}
    worker.work_queue(catalog, store, settings, bases, have_ended)
