"""The tiers together, with a fake object store that is slow, down or corrupt, and a fake host memory."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, StoreUnavailable
from looper.serve.cache.pager import Pager
from tests.serve.cache.lru_caches import make_disk_cache, run, until


class FakeStore:
    """Returns any adapter, and "slow" ones after ``release``. Those in ``down`` and ``corrupt`` raise errors."""

    def __init__(self) -> None:
        self.fetched: Counter[str] = Counter()
        self.release = threading.Event()
        self.down: set[str] = set()
        self.corrupt: set[str] = set()

    def fetch(self, digest: str) -> AdapterFiles:
        self.fetched[digest] += 1
        if digest in self.down:
            raise StoreUnavailable("the store is down")
        if digest in self.corrupt:
            raise CorruptAdapter(f"adapter {digest} is not what its digest says")
        if digest.startswith("slow"):
            self.release.wait(10)
        return AdapterFiles(digest.encode(), b"{}", b"{}")


class FakeHostMemory:
    """Host memory of an engine that refuses the adapter ``bad``."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()

    async def load(self, digest: str, folder: Path) -> str:
        if digest == "bad":
            raise InvalidInput("refused")
        assert (folder / "adapter_model.safetensors").read_bytes() == digest.encode()
        self.loaded.add(digest)
        return f"the {digest}"

    async def evict(self, digest: str, handle: str) -> None:
        self.loaded.remove(digest)


@contextmanager
def make_pager(
    folder: Path, *, disk: int = 4, host_memory: int = 2
) -> Iterator[tuple[FakeStore, FakeHostMemory, Pager[str]]]:
    store, memory = FakeStore(), FakeHostMemory()
    try:
        cache = make_disk_cache(store.fetch, folder)
        yield store, memory, Pager(cache, memory, disk_capacity=disk, host_memory_capacity=host_memory)
    finally:
        store.release.set()  # a thread that waits would keep the event loop from ending


def test_each_tier_keeps_what_the_tier_above_evicted(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk") as (store, memory, pager):
            for digest in "abc":
                assert pager.find_tier(digest) == "store"
                async with pager.host_memory.pin(digest) as handle:
                    assert handle == f"the {digest}"
            assert (memory.loaded, pager.find_tier("a"), pager.find_tier("c")) == ({"b", "c"}, "disk", "memory")
            assert pager.take_eviction_counts() == {"memory": 1, "disk": 0}
            async with pager.host_memory.pin("a"):
                pass
            assert store.fetched == {"a": 1, "b": 1, "c": 1}
            assert pager.take_eviction_counts() == {"memory": 1, "disk": 0}
            assert pager.take_eviction_counts() == {"memory": 0, "disk": 0}

    run(test)


def test_a_slow_download_does_not_delay_other_adapters(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk", host_memory=3) as (store, _, pager):
            slow = asyncio.create_task(pager.host_memory.get("slow"))
            await until(lambda: store.fetched["slow"] == 1)
            assert await asyncio.wait_for(pager.host_memory.get("fast"), 5) == "the fast"
            assert not slow.done()
            store.release.set()
            assert await slow == "the slow"

    run(test)


def test_pending_downloads_evict_nothing_from_host_memory(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk", disk=3, host_memory=2) as (store, memory, pager):
            await pager.host_memory.get("a")
            slow = [asyncio.create_task(pager.host_memory.get(f"slow {number}")) for number in range(5)]
            await until(lambda: store.fetched.total() == 4)  # as many as fit on the disk
            assert (pager.find_tier("a"), "a" in pager.disk) == ("memory", False)
            store.release.set()
            assert await asyncio.gather(*slow) == [f"the slow {number}" for number in range(5)]
            assert len(memory.loaded) == 2

    run(test)


def test_an_unavailable_store_is_retried_and_a_corrupt_adapter_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk") as (store, _, pager):
            store.down, store.corrupt = {"a"}, {"b"}
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await pager.host_memory.get("a")
                with pytest.raises(CorruptAdapter):
                    await pager.host_memory.get("b")
            assert store.fetched == {"a": 2, "b": 1}
            store.down.clear()
            assert await pager.host_memory.get("a") == "the a"

    run(test)


def test_a_prefetched_adapter_is_held(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk", host_memory=4) as (_, memory, pager):
            await pager.prefetch("held", 60)
            for digest in "abcdef":
                await pager.host_memory.get(digest)
            assert memory.loaded == {"held", "d", "e", "f"}

    run(test)


def test_an_adapter_in_host_memory_is_used_though_the_disk_has_evicted_it(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk", disk=1, host_memory=4) as (store, _, pager):
            for digest in "aba":
                await pager.host_memory.get(digest)
            assert store.fetched == {"a": 1, "b": 1}
            assert (pager.find_tier("a"), "a" in pager.disk) == ("memory", False)

    run(test)


def test_an_adapter_that_the_engine_refuses_takes_no_place_in_host_memory(tmp_path: Path) -> None:
    async def test() -> None:
        with make_pager(tmp_path / "disk", host_memory=1) as (_, _, pager):
            with pytest.raises(InvalidInput):
                await pager.host_memory.get("bad")
            assert await pager.host_memory.get("a") == "the a"

    run(test)
