"""Helpers for the tests of the adapter cache."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from looper.platform.adapters import AdapterFiles
from looper.serve.cache.disk_cache import DiskCache, write_adapter


def make_disk_cache(fetch: Callable[[str], AdapterFiles], folder: Path) -> DiskCache:
    """Return a disk cache whose downloads run in threads."""

    async def download(digest: str) -> None:
        await asyncio.to_thread(lambda: write_adapter(fetch(digest).to_dict(), digest, folder))

    return DiskCache(download, folder)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (it comes true in another task or thread)
        await asyncio.sleep(0.005)
