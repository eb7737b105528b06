"""The pager against a store made of a dictionary."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import CorruptAdapter, LooperError, NotFound, StoreUnavailable
from looper.serve.pager import Pager, claim_folder

FILES = AdapterFiles(b"weights", b"{}", b"{}")
NAMES = {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}


class Store:
    """Hands out the same files under any name, once ``gate`` is open; ``faults`` are raised instead."""

    def __init__(self, **faults: LooperError) -> None:
        self.faults = faults
        self.fetched: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.together = 0
        self._now = 0
        self._lock = threading.Lock()

    def fetch(self, digest: str) -> AdapterFiles:
        with self._lock:
            self.fetched[digest] += 1
            self._now += 1
            self.together = max(self.together, self._now)
        assert self.gate.wait(10)
        with self._lock:
            self._now -= 1
        if digest in self.faults:
            raise self.faults[digest]
        return FILES


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (it comes true in another thread)
        await asyncio.sleep(0.005)


def on_disk(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_an_adapter_is_fetched_once_however_many_ask(tmp_path: Path) -> None:
    store = Store()
    store.gate.clear()

    async def test() -> None:
        pager = Pager(store.fetch, tmp_path / "adapters", 4)
        asking = [asyncio.create_task(pager.ensure("a")) for _ in range(5)]
        await until(lambda: store.fetched["a"] == 1)
        store.gate.set()
        paths = await asyncio.gather(*asking)
        assert set(paths) == {tmp_path / "adapters" / "a"}
        assert on_disk(paths[0]) == NAMES
        await pager.ensure("a")
        assert store.fetched == {"a": 1}

    run(test)


def test_different_adapters_come_in_parallel(tmp_path: Path) -> None:
    store = Store()
    store.gate.clear()

    async def test() -> None:
        pager = Pager(store.fetch, tmp_path / "adapters", 4)
        asking = [asyncio.create_task(pager.ensure(digest)) for digest in "abcd"]
        await until(lambda: store.together == 4)
        store.gate.set()
        await asyncio.gather(*asking)

    run(test)


def test_a_folder_is_never_seen_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    seen: list[set[str]] = []

    class Watching(dict[str, bytes]):
        def items(self) -> Any:
            for item in super().items():
                seen.append(on_disk(folder))
                yield item

    class Slow(AdapterFiles):
        def by_name(self) -> dict[str, bytes]:
            return Watching(super().by_name())

    async def test() -> None:
        await Pager(lambda _: Slow(b"w", b"{}", b"{}"), folder, 1).ensure("a")
        assert len(seen) == 3
        assert all("a" not in names for names in seen)
        assert on_disk(folder) == {"a"}

    run(test)


def test_the_least_recently_used_makes_room_and_comes_back(tmp_path: Path) -> None:
    store = Store()
    folder = tmp_path / "adapters"

    async def test() -> None:
        pager = Pager(store.fetch, folder, 2)
        for digest in "abac":
            await pager.ensure(digest)
        assert on_disk(folder) == {"a", "c"}
        await pager.ensure("b")
        assert on_disk(folder) == {"b", "c"}
        assert store.fetched == {"a": 1, "b": 2, "c": 1}

    run(test)


def test_a_pinned_adapter_stays_and_a_full_disk_waits_for_a_pin_to_go(tmp_path: Path) -> None:
    store = Store()
    folder = tmp_path / "adapters"

    async def test() -> None:
        pager = Pager(store.fetch, folder, 2)
        async with pager.pin("a") as held:
            await pager.ensure("b")
            await pager.ensure("c")
            assert on_disk(folder) == {"a", "c"}
            async with pager.pin("c"):
                waiting = asyncio.create_task(pager.ensure("d"))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                assert on_disk(held) == NAMES
            await waiting
            assert on_disk(folder) == {"a", "d"}
        await pager.ensure("e")
        assert on_disk(folder) == {"d", "e"}

    run(test)


def test_the_disk_never_holds_more_than_its_capacity(tmp_path: Path) -> None:
    store = Store()
    folder = tmp_path / "adapters"
    most = 0

    async def test() -> None:
        nonlocal most
        pager = Pager(store.fetch, folder, 3)

        async def use(digest: str) -> None:
            nonlocal most
            async with pager.pin(digest) as path:
                await asyncio.sleep(0.001)
                assert on_disk(path) == NAMES
                most = max(most, len({name for name in on_disk(folder) if not name.startswith(".")}))

        await asyncio.gather(*(use(str(number % 11)) for number in range(200)))
        assert most <= 3

    run(test)


@pytest.mark.parametrize("fault", [NotFound("a is gone"), CorruptAdapter("a is corrupt")])
def test_a_broken_adapter_is_remembered_for_a_while_and_harms_no_other(tmp_path: Path, fault: LooperError) -> None:
    store = Store(a=fault)

    async def test() -> None:
        pager = Pager(store.fetch, tmp_path / "adapters", 1, remember_failures_s=0.2)
        for _ in range(3):
            with pytest.raises(type(fault)):
                async with pager.pin("a"):
                    raise AssertionError("unreachable")
        assert store.fetched == {"a": 1}
        assert on_disk(tmp_path / "adapters") == set()
        await pager.ensure("b")
        await asyncio.sleep(0.2)
        del store.faults["a"]
        await pager.ensure("a")
        assert store.fetched == {"a": 2, "b": 1}

    run(test)


def test_a_store_that_is_down_is_tried_again_at_once(tmp_path: Path) -> None:
    store = Store(a=StoreUnavailable("down"))

    async def test() -> None:
        pager = Pager(store.fetch, tmp_path / "adapters", 1)
        with pytest.raises(StoreUnavailable):
            await pager.ensure("a")
        store.faults.clear()
        await pager.ensure("a")

    run(test)


def test_one_who_gives_up_does_not_take_it_from_the_others(tmp_path: Path) -> None:
    store = Store()
    store.gate.clear()

    async def test() -> None:
        pager = Pager(store.fetch, tmp_path / "adapters", 1)
        first, second = (asyncio.create_task(pager.ensure("a")) for _ in range(2))
        await until(lambda: store.fetched["a"] == 1)
        first.cancel()
        store.gate.set()
        await second
        assert first.cancelled()
        assert store.fetched == {"a": 1}

    run(test)


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"

    class Full(AdapterFiles):
        def by_name(self) -> dict[str, bytes]:
            return super().by_name() | {"no-such-folder/file": b""}

    async def test() -> None:
        with pytest.raises(StoreUnavailable, match="adapter a could not be written"):
            await Pager(lambda _: Full(b"w", b"{}", b"{}"), folder, 1).ensure("a")
        assert on_disk(folder) == set()

    run(test)


def test_what_an_earlier_process_left_is_not_trusted(tmp_path: Path) -> None:
    store = Store()
    left = tmp_path / "adapters" / "a"
    left.mkdir(parents=True)
    (left / "adapter_config.json").write_text("half")

    async def test() -> None:
        path = await Pager(store.fetch, tmp_path / "adapters", 1).ensure("a")
        assert on_disk(path) == NAMES

    run(test)


def test_processes_on_one_machine_take_different_folders(tmp_path: Path) -> None:
    first, lock = claim_folder(tmp_path)
    second, other = claim_folder(tmp_path)
    assert first != second
    lock.close()
    again, lock = claim_folder(tmp_path)
    assert again == first
    lock.close()
    other.close()
