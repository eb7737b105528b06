"""Three tiers together, with a store that is slow, down or broken, and a memory that notes what it holds."""

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
from tests.serve.cache.lru_caches import disk, run, until


class Store:
    """Gives any adapter, "slow" ones once they are let go; what ``down`` or ``corrupt`` names, it does not give."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.down: set[str] = set()
        self.corrupt: set[str] = set()

    def fetch(self, digest: str) -> AdapterFiles:
        self.asked[digest] += 1
        if digest in self.down:
            raise StoreUnavailable("the store is down")
        if digest in self.corrupt:
            raise CorruptAdapter(f"adapter {digest} is not what its digest says")
        if digest.startswith("slow"):
            self.let_go.wait(10)
        return AdapterFiles(digest.encode(), b"{}", b"{}")


class Memory:
    """Of an engine that refuses the adapter ``bad``."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def bring(self, digest: str, folder: Path) -> str:
        if digest == "bad":
            raise InvalidInput("refused")
        assert (folder / "adapter_model.safetensors").read_bytes() == digest.encode()
        self.there.add(digest)
        return f"the {digest}"

    async def drop(self, digest: str, name: str) -> None:
        self.there.remove(digest)


@contextmanager
def made(folder: Path, *, on_disk: int = 4, in_memory: int = 2) -> Iterator[tuple[Store, Memory, Pager[str]]]:
    store, memory = Store(), Memory()
    try:
        yield store, memory, Pager(disk(store.fetch, folder), memory, on_disk=on_disk, in_memory=in_memory)
    finally:
        store.let_go.set()  # a thread that waits would keep the event loop from ending


def test_each_tier_remembers_what_the_one_above_put_out(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk") as (store, memory, pager):
            for digest in "abc":
                assert pager.tier(digest) == "store"
                async with pager.memory.pin(digest) as name:
                    assert name == f"the {digest}"
            assert (memory.there, pager.tier("a"), pager.tier("c")) == ({"b", "c"}, "disk", "memory")
            assert pager.newly_evicted() == {"memory": 1, "disk": 0}
            async with pager.memory.pin("a"):
                pass
            assert store.asked == {"a": 1, "b": 1, "c": 1}
            assert pager.newly_evicted() == {"memory": 1, "disk": 0}
            assert pager.newly_evicted() == {"memory": 0, "disk": 0}

    run(test)


def test_a_slow_store_keeps_nobody_from_what_is_there_or_comes_faster(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk", in_memory=3) as (store, _, pager):
            slow = asyncio.create_task(pager.memory.ensure("slow"))
            await until(lambda: store.asked["slow"] == 1)
            assert await asyncio.wait_for(pager.memory.ensure("fast"), 5) == "the fast"
            assert not slow.done()
            store.let_go.set()
            assert await slow == "the slow"

    run(test)


def test_what_waits_for_a_slow_store_takes_no_place_from_what_is_in_memory(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk", on_disk=3, in_memory=2) as (store, memory, pager):
            await pager.memory.ensure("a")
            slow = [asyncio.create_task(pager.memory.ensure(f"slow {number}")) for number in range(5)]
            await until(lambda: store.asked.total() == 4)  # as many as the disk has places for
            assert (pager.tier("a"), "a" in pager.disk) == ("memory", False)
            store.let_go.set()
            assert await asyncio.gather(*slow) == [f"the slow {number}" for number in range(5)]
            assert len(memory.there) == 2

    run(test)


def test_a_store_that_is_down_is_asked_again_and_a_corrupt_adapter_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk") as (store, _, pager):
            store.down, store.corrupt = {"a"}, {"b"}
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await pager.memory.ensure("a")
                with pytest.raises(CorruptAdapter):
                    await pager.memory.ensure("b")
            assert store.asked == {"a": 2, "b": 1}
            store.down.clear()
            assert await pager.memory.ensure("a") == "the a"

    run(test)


def test_what_is_prefetched_and_held_stays(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk", in_memory=4) as (_, memory, pager):
            await pager.prefetch("held", 60)
            for digest in "abcdef":
                await pager.memory.ensure(digest)
            assert memory.there == {"held", "d", "e", "f"}

    run(test)


def test_an_adapter_in_memory_is_used_though_the_disk_has_dropped_it(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk", on_disk=1, in_memory=4) as (store, _, pager):
            for digest in "aba":
                await pager.memory.ensure(digest)
            assert store.asked == {"a": 1, "b": 1}
            assert (pager.tier("a"), "a" in pager.disk) == ("memory", False)

    run(test)


def test_what_the_engine_refuses_leaves_its_place_in_memory_to_others(tmp_path: Path) -> None:
    async def test() -> None:
        with made(tmp_path / "disk", in_memory=1) as (_, _, pager):
            with pytest.raises(InvalidInput):
                await pager.memory.ensure("bad")
            assert await pager.memory.ensure("a") == "the a"

    run(test)
