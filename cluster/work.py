"""Working the queue from a command, on a Ray of its own, for machines on which nothing is up."""

import os
import secrets
from collections.abc import Callable, Sequence

from looper.cluster.local_ray import local_ray
from looper.jobs import foreman
from looper.jobs.basemodel.prepare import prepare
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def work_until_done(
    catalog: Catalog, settings: Settings, ids: Sequence[str], *, ready: Callable[[], None] = lambda: None
) -> None:
    """Claim and work until each of ``ids`` has ended. Others that wait in the queue are worked on, too."""
    model_dir = prepare(settings.base, settings.models_dir)
    owner = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
    store = ObjectStore.open(settings)
    with local_ray():
        ready()
        while not all(catalog.consolidation(id).state.final for id in ids):
            foreman.run_once(catalog, store, settings, model_dir, owner)
