"""Works the queue until nothing waits: ``python -m tests.jobs.driver``, settings as JSON on its standard input."""

import sys
from contextlib import closing
from pathlib import Path

from looper.cluster.local_ray import local_ray
from looper.cluster.run_until_complete import run_until_complete
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def work(settings: Settings) -> None:
    with closing(Catalog.open(settings)) as catalog, local_ray():
        waiting = [job.id for job in catalog.unfinished()]
        run_until_complete(catalog, ObjectStore.open(settings), settings, Path(settings.base), waiting)


if __name__ == "__main__":
    work(Settings.model_validate_json(sys.stdin.read()))
