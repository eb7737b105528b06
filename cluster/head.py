"""The head process of a private cluster: a local Ray, and on it the application of ``app.py``.

The supervisor runs it as ``python -m looper.cluster.head``, with the settings as JSON on standard input. It ends when
it gets a signal or when its supervisor has ended.
"""

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ray import serve

from looper.basemodel.prepare import prepare_bases
from looper.cluster.app import build_on_cluster
from looper.cluster.local_ray import local_ray
from looper.cluster.migration import migrate_catalog
from looper.cluster.processes import stop_on_signals
from looper.cluster.state import read_state, write_state
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.private_files import keep_files_private
from looper.platform.settings import Settings
from looper.serve.cache.cache_sizes import plan_cache_sizes
from looper.serve.deployment.ray_app import deploy, plan_cluster


def run_head(settings: Settings, stop: threading.Event) -> None:
    """Serve, and work the queue, both in Ray Serve's replicas.

    Args:
        settings: Settings of the cluster.
        stop: Ends the work when it is set.
    """
    folders = prepare_bases(settings)
    migrate_catalog(settings)  # before anything reads it
    with local_ray(settings.max_engines):
        stop_on_signals(stop)  # again, because Ray has installed its own handler, which ends the process immediately
        plan = plan_cluster(settings)
        url = deploy(settings, build_on_cluster(settings, is_private=True))
        state = read_state(settings)
        if state is not None:
            found = {"phase": "up", "url": url, "engines": _describe_engines(settings, folders), "gpus": str(plan)}
            write_state(settings, state.model_copy(update=found))
        stop.wait()
        serve.shutdown()  # type: ignore[no-untyped-call]  # waits for the replicas: the control loop releases its work


def _describe_engines(settings: Settings, folders: Mapping[str, Path]) -> dict[str, str]:
    """Return the capacity of an engine of each pool in words, by the pool in words."""
    return {
        f"ranks up to {pool.max_lora_rank}" + (f" on {name}" if settings.bases else ""): str(
            plan_cache_sizes(settings.for_base(name).serve, pool, folder)
        )
        for name, folder in folders.items()
        for pool in settings.for_base(name).serve.all_pools
    }


def _stop_with_parent(parent: int, stop: threading.Event) -> None:
    """Set ``stop`` once the supervisor is gone. A process gets another parent when its own has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()


def main() -> None:
    """Run the head until a signal arrives or the supervisor ends."""
    keep_files_private()
    stop = threading.Event()
    stop_on_signals(stop)
    threading.Thread(target=_stop_with_parent, args=(os.getppid(), stop), daemon=True).start()
    settings = Settings.model_validate_json(sys.stdin.read())
    try:
        run_head(settings, stop)
    except InvalidInput as error:
        if state := read_state(settings):
            write_state(settings, state.model_copy(update={"refusal": error.detail}))
        sys.exit(f"error: {error.detail}")


if __name__ == "__main__":
    main()
