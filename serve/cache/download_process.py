"""A process beside each replica that brings adapters from the object store to the replica's disk.

Receiving an adapter, hashing it and writing it takes the interpreter for tens of milliseconds. In the replica's own
process, everyone's tokens would wait for that; here, at a lower priority and off the engine's cores, it takes what they
leave.
"""

import ctypes
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import orjson
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looper.platform.adapters import AdapterFiles, fetch
from looper.platform.adapters.files import CONFIG
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import PoolSettings, Settings
from looper.serve.cache.cache_sizes import numbers_per_rank
from looper.serve.cache.disk_cache import write
from looper.serve.cpu.kernel_layout import PACKED_FILE, pack_adapter
from looper.serve.engine.engine_arguments import Device

AT_ONCE = 8
"""Adapters that are on their way together, as a store may be far away. What there is to compute is done one by one:
more would be ready at the same time, and their requests would make one step of the engine's long."""

STEPS_BACK = 2
"""By which the process's niceness is above that of what it shares a core with: of that, tokens have three fifths."""

Fetch = Callable[[str], AdapterFiles]
"""Digest to verified files. Blocks; called from several threads at once."""


class AdapterDownloader:
    """The process: an actor of Ray's, which starts it again should it die, and ends it with its replica."""

    def __init__(
        self, settings: Settings, pool: PoolSettings, model_dir: Path, device: Device, folder: Path, cores: set[int]
    ) -> None:
        _step_aside(cores)
        _keep_memory()
        self._fetch = servable(settings, pool, model_dir)
        self._device = device
        self._folder = folder
        self._computing = Lock()

    def load(self, digest: str) -> None:
        files = self._fetch(digest)
        with self._computing:
            served: dict[str, bytes | memoryview] = {**files.by_name()}
            if self._device == "cpu":
                served = {CONFIG: files.config, PACKED_FILE: pack_adapter(files)}
            write(served, digest, self._folder)


def _step_aside(cores: set[int]) -> None:
    """Have all threads of this process work on ``cores``, at a lower priority. Ray has started some before."""
    for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEPS_BACK)
            os.sched_setaffinity(thread, cores)


def _keep_memory() -> None:
    """Have glibc use again what adapters lay in, where it would return it, and have the kernel clear new pages.

    That took a third of the time for an adapter.
    """
    of_glibc = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # its malloc.h
    for parameter, value in ((trim_threshold, 2**30), (mmap_threshold, 2**25), (arena_max, 1)):
        of_glibc(parameter, value)


def start_loader(
    settings: Settings, pool: PoolSettings, model_dir: Path, device: Device, folder: Path, cores: set[int]
) -> Callable[[str], Awaitable[None]]:
    """What brings the adapter of a digest into ``folder`` of this machine, raising why it could not be.

    It works on ``cores``.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    loader: Any = (
        ray.remote(AdapterDownloader)
        .options(num_cpus=0, max_concurrency=AT_ONCE, max_restarts=-1, scheduling_strategy=here)
        .remote(settings, pool, model_dir, device, folder, cores)
    )

    async def load(digest: str) -> None:
        try:
            await loader.load.remote(digest)
        except RayTaskError as failed:
            raise failed.cause if isinstance(failed.cause, LooperError) else failed from None
        except RayActorError as died:
            raise StoreUnavailable(f"adapter {digest} was not loaded, as the loader died: ask again") from died

    return load


def servable(settings: Settings, pool: PoolSettings, model_dir: Path) -> Fetch:
    """How adapters are fetched for engines of ``pool``: verified, and refused here if the engine could not serve it.

    The engine would find out in its step loop, where everyone's requests are.
    """
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    revision = orjson.loads((model_dir / "looper.json").read_bytes())["revision"]
    largest = pool.max_lora_rank * numbers_per_rank(model_dir) * 4 + 2**20  # in float32, and a header

    def fetch_servable(digest: str) -> AdapterFiles:
        files = fetch(store, catalog.version(digest).instance.tenant, digest, at_most=largest)
        trained_on = files.read_manifest().base_revision
        if trained_on != revision:
            raise InvalidInput(
                f"adapter {digest} was trained on base revision {trained_on}, but {settings.base} is served at "
                f"{revision}: consolidate again on this base"
            )
        if files.rank > pool.max_lora_rank:
            raise InvalidInput(
                f"adapter {digest} has rank {files.rank}, above serve.max_lora_rank {pool.max_lora_rank}: "
                "raise LOOPER_SERVE__MAX_LORA_RANK and restart the server"
            )
        return files

    return fetch_servable
