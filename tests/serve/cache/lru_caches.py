"""What the tests of the pager's parts share."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from looper.platform.adapters import AdapterFiles
from looper.serve.cache.disk_cache import DiskCache, write


def disk(fetch: Callable[[str], AdapterFiles], folder: Path) -> DiskCache:
    """One that is written by threads."""

    async def load(digest: str) -> None:
        await asyncio.to_thread(lambda: write(fetch(digest).by_name(), digest, folder))

    return DiskCache(load, folder)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (it comes true in another task or thread)
        await asyncio.sleep(0.005)
