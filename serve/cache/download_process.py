"""A process next to each replica that downloads adapters from the object store to the replica's disk.

Downloading, hashing and writing an adapter holds the interpreter lock for tens of milliseconds. In the replica's own
process, the tokens of all requests would wait for that. This process has a lower priority and stays off the engine's
cores, so it takes only what they leave.

``SkillServer.open`` starts it. ``DiskCache`` calls it for each adapter that is not on disk.
"""

import asyncio
import ctypes
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looper.platform.adapters import AdapterFiles, fetch
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.catalog import Catalog
from looper.platform.domain.adapter_digest import CONFIG_FILE
from looper.platform.domain.errors import InvalidInput, LooperError, StoreUnavailable
from looper.platform.domain.private_files import keep_files_private
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import PoolSettings, Settings
from looper.serve.cache.cache_sizes import lora_params_per_rank
from looper.serve.cache.disk_cache import MAX_CONCURRENT_DOWNLOADS, write_adapter
from looper.serve.cpu.kernel_layout import PACKED_FILE, pack_adapter
from looper.serve.engine.engine_arguments import Device

NICENESS_INCREMENT = 2
"""Added to the niceness of this process. Other processes on the same core then get about three fifths of it."""

MAX_DOWNLOAD_S = 60.0
"""Time after which a download is given up, in seconds.

Ray tells of the death of the process by a timer that stops for as long as the machine's clock has been set back.
"""

Fetch = Callable[[str], AdapterFiles]
"""Returns the verified files of a digest. It blocks, and several threads call it concurrently."""


class AdapterDownloader:
    """The process, as a Ray actor. Ray restarts it if it dies, and ends it together with its replica."""

    def __init__(
        self, settings: Settings, pool: PoolSettings, model_dir: Path, device: Device, folder: Path, cores: set[int]
    ) -> None:
        """Prepare the process.

        Args:
            settings: All settings.
            pool: Settings of the engine's pool.
            model_dir: Folder of the base model.
            device: Where the engine computes.
            folder: Folder of the replica's ``DiskCache``.
            cores: Cores for this process.
        """
        keep_files_private()
        _lower_priority(cores)
        _keep_freed_memory()
        self._fetch = servable_fetcher(settings, pool, model_dir)
        self._device = device
        self._folder = folder
        self._compute_lock = Lock()

    def download(self, digest: str) -> None:
        """Download an adapter to the folder, in the format that the engine reads.

        Args:
            digest: Digest of the adapter.

        Raises:
            LooperError: The adapter cannot be downloaded, or the engine cannot serve it.
        """
        files = self._fetch(digest)
        with self._compute_lock:
            content: dict[str, bytes | memoryview] = {**files.to_dict()}
            if self._device == "cpu":
                content = {CONFIG_FILE: files.config, PACKED_FILE: pack_adapter(files)}
            write_adapter(content, digest, self._folder)


def _lower_priority(cores: set[int]) -> None:
    """Restrict all threads of this process to ``cores``, at a lower priority. Ray has already started some threads."""
    for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
        with suppress(ProcessLookupError):  # the thread has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS_INCREMENT)
            os.sched_setaffinity(thread, cores)


def _keep_freed_memory() -> None:
    """Configure glibc to reuse freed memory, instead of returning it to the kernel, which must zero new pages.

    Zeroing took a third of the time for an adapter.
    """
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # M_TRIM_THRESHOLD and so on, from glibc's malloc.h
    for parameter, value in ((trim_threshold, 2**30), (mmap_threshold, 2**25), (arena_max, 1)):
        mallopt(parameter, value)


def start_downloader(
    settings: Settings, pool: PoolSettings, model_dir: Path, device: Device, folder: Path, cores: set[int]
) -> Callable[[str], Awaitable[None]]:
    """Start the process on this machine.

    Args:
        settings: All settings.
        pool: Settings of the engine's pool.
        model_dir: Folder of the base model.
        device: Where the engine computes.
        folder: Folder of the replica's ``DiskCache``.
        cores: Cores for the process.

    Returns:
        A function that downloads the adapter of a digest. It raises the ``LooperError`` of the process, and
        StoreUnavailable if the process dies or takes longer than ``MAX_DOWNLOAD_S``.
    """
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    downloader: Any = (
        ray.remote(AdapterDownloader)
        .options(num_cpus=0, max_concurrency=MAX_CONCURRENT_DOWNLOADS, max_restarts=-1, scheduling_strategy=this_node)
        .remote(settings, pool, model_dir, device, folder, cores)
    )

    async def download(digest: str) -> None:
        try:
            async with asyncio.timeout(MAX_DOWNLOAD_S):
                await downloader.download.remote(digest)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, LooperError) else error from None
        except RayActorError as error:
            raise StoreUnavailable(
                f"adapter {digest} was not loaded because the download process died: try again"
            ) from error
        except TimeoutError as error:
            raise StoreUnavailable(f"adapter {digest} was not loaded within {MAX_DOWNLOAD_S:g} s: try again") from error

    return download


def servable_fetcher(settings: Settings, pool: PoolSettings, model_dir: Path) -> Fetch:
    """Return a function that fetches adapters and rejects those that engines of the pool cannot serve.

    Without this check, the engine would find out in its step loop, and delay all requests.

    Args:
        settings: All settings.
        pool: Settings of the pool.
        model_dir: Folder of the base model.

    Returns:
        A function that returns the verified files of a digest. It raises InvalidInput for an adapter of another base
        model or of a larger rank, and what ``platform.adapters.fetch`` raises.
    """
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    revision = read_base_revision(model_dir)
    float32_bytes, header_bytes = 4, 2**20
    max_bytes = pool.max_lora_rank * lora_params_per_rank(model_dir) * float32_bytes + header_bytes

    def fetch_servable(digest: str) -> AdapterFiles:
        files = fetch(store, catalog.get_version(digest).instance.tenant, digest, max_bytes=max_bytes)
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
