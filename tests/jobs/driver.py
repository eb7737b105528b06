"""Work the queue until it is empty: ``python -m tests.jobs.driver``, with the settings as JSON on standard input."""

import sys
from contextlib import closing
from pathlib import Path

from looper.cluster.local_ray import local_ray
from looper.cluster.run_until_complete import run_until_complete
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def work_until_empty(settings: Settings) -> None:
    with closing(Catalog.open(settings)) as catalog, local_ray():
        unfinished = [job.id for job in catalog.list_unfinished()]
        run_until_complete(
            catalog, ObjectStore.open(settings), settings, {settings.base: Path(settings.base)}, unfinished
        )


if __name__ == "__main__":
    work_until_empty(Settings.model_validate_json(sys.stdin.read()))
