"""The head process: a local Ray, the skill servers behind the gateway, and the foreman who works the queue.

Run by the supervisor as ``python -m looper.cluster.head`` with the settings as JSON on standard input; ends when told
to, or when its supervisor is gone.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

from looper.cluster.local_ray import local_ray
from looper.cluster.state import read_state, write_state
from looper.jobs.basemodel.prepare import prepare
from looper.jobs.queue import worker as foreman
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.serve.cache.cache_sizes import plan_cache_sizes
from looper.serve.deployment.ray_app import deploy


def run_head(settings: Settings, stop: threading.Event) -> None:
    """Serve and work until ``stop``."""
    model_dir = prepare(settings.base, settings.models_dir)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    with local_ray():
        _listen(stop)  # again: Ray has put a handler of its own in place, which ends the process where it stands
        url = deploy(settings, model_dir)
        state = read_state(settings)
        if state is not None:
            engines = {
                p.max_lora_rank: str(plan_cache_sizes(settings.serve, p, model_dir)) for p in settings.serve.all_pools
            }
            write_state(settings, state.model_copy(update={"phase": "up", "url": url, "engines": engines}))
        foreman.work_queue(catalog, store, settings, model_dir, stop.is_set)


def _leave_with(parent: int, stop: threading.Event) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()


def _listen(stop: threading.Event) -> None:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def main() -> None:
    stop = threading.Event()
    _listen(stop)
    threading.Thread(target=_leave_with, args=(os.getppid(), stop), daemon=True).start()
    run_head(Settings.model_validate_json(sys.stdin.read()), stop)


if __name__ == "__main__":
    main()
