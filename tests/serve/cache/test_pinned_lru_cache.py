"""A shelf of words."""

import asyncio
from collections import Counter

import pytest

from looper.platform.domain.errors import CorruptAdapter, LooperError, NotFound, StoreUnavailable
from looper.serve.cache.pinned_lru_cache import PinnedLRUCache
from tests.serve.cache.lru_caches import run, until


class Source:
    """Brings any word, once ``gate`` is open; ``faults`` are raised instead. ``held`` is what was not dropped again."""

    def __init__(self, **faults: LooperError) -> None:
        self.faults = faults
        self.brought: Counter[str] = Counter()
        self.held: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.together = 0

    async def bring(self, digest: str) -> str:
        self.brought[digest] += 1
        self.together += 1
        await self.gate.wait()
        self.together -= 1
        if digest in self.faults:
            raise self.faults[digest]
        self.held.add(digest)
        return f"the {digest}"

    async def drop(self, digest: str, thing: str) -> None:
        assert thing == f"the {digest}"
        self.held.remove(digest)
        await asyncio.sleep(0)

    def shelf(self, capacity: int, *, remember_failures_s: float = 10) -> PinnedLRUCache[str]:
        return PinnedLRUCache(self.bring, self.drop, capacity, remember_failures_s=remember_failures_s)


def test_a_thing_is_brought_once_however_many_ask() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        shelf = source.shelf(4)
        asking = [asyncio.create_task(shelf.ensure("a")) for _ in range(5)]
        await until(lambda: source.brought["a"] == 1)
        source.gate.set()
        assert set(await asyncio.gather(*asking)) == {"the a"}
        await shelf.ensure("a")
        assert source.brought == {"a": 1}

    run(test)


def test_different_things_come_in_parallel() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        shelf = source.shelf(4)
        asking = [asyncio.create_task(shelf.ensure(digest)) for digest in "abcd"]
        await until(lambda: source.together == 4)
        source.gate.set()
        await asyncio.gather(*asking)

    run(test)


def test_the_least_recently_used_makes_room_and_comes_back() -> None:
    async def test() -> None:
        source = Source()
        shelf = source.shelf(2)
        for digest in "abac":
            await shelf.ensure(digest)
        assert source.held == {"a", "c"}
        await shelf.ensure("b")
        assert source.held == {"b", "c"}
        assert source.brought == {"a": 1, "b": 2, "c": 1}

    run(test)


def test_what_is_pinned_stays_and_a_full_shelf_waits_for_a_pin_to_go() -> None:
    async def test() -> None:
        source = Source()
        shelf = source.shelf(2)
        async with shelf.pin("a"):
            await shelf.ensure("b")
            await shelf.ensure("c")
            assert source.held == {"a", "c"}
            async with shelf.pin("c"):
                waiting = asyncio.create_task(shelf.ensure("d"))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                assert source.held == {"a", "c"}
            await waiting
            assert source.held == {"a", "d"}
        await shelf.ensure("e")
        assert source.held == {"d", "e"}

    run(test)


def test_there_is_never_more_than_the_capacity() -> None:
    async def test() -> None:
        source = Source()
        shelf = source.shelf(3)
        most = 0

        async def use(digest: str) -> None:
            nonlocal most
            async with shelf.pin(digest):
                await asyncio.sleep(0.001)
                assert digest in source.held
                most = max(most, len(source.held))

        await asyncio.gather(*(use(str(number % 11)) for number in range(200)))
        assert most <= 3

    run(test)


@pytest.mark.parametrize("fault", [NotFound("a is gone"), CorruptAdapter("a is corrupt")])
def test_a_lasting_failure_is_remembered_for_a_while_and_harms_no_other(fault: LooperError) -> None:
    async def test() -> None:
        source = Source(a=fault)
        shelf = source.shelf(1, remember_failures_s=0.2)
        for _ in range(3):
            with pytest.raises(type(fault)):
                async with shelf.pin("a"):
                    raise AssertionError("unreachable")
        assert source.brought == {"a": 1}
        await shelf.ensure("b")
        await asyncio.sleep(0.2)
        del source.faults["a"]
        await shelf.ensure("a")
        assert source.brought == {"a": 2, "b": 1}

    run(test)


def test_what_is_unavailable_is_tried_again_at_once() -> None:
    async def test() -> None:
        source = Source(a=StoreUnavailable("down"))
        shelf = source.shelf(1)
        with pytest.raises(StoreUnavailable):
            await shelf.ensure("a")
        source.faults.clear()
        await shelf.ensure("a")

    run(test)


def test_one_who_gives_up_does_not_take_it_from_the_others() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        shelf = source.shelf(1)
        first, second = (asyncio.create_task(shelf.ensure("a")) for _ in range(2))
        await until(lambda: source.brought["a"] == 1)
        first.cancel()
        source.gate.set()
        await second
        assert first.cancelled()
        assert source.brought == {"a": 1}

    run(test)


def test_what_is_held_makes_no_room_while_it_is_held() -> None:
    async def test() -> None:
        source = Source()
        shelf = source.shelf(2)
        shelf.hold("a", 0.05)
        for digest in "abc":
            await shelf.ensure(digest)
        assert source.held == {"a", "c"}
        assert "a" in shelf
        await asyncio.sleep(0.06)
        await shelf.ensure("d")
        assert source.held == {"c", "d"}
        assert shelf.evicted == 2

    run(test)


def test_at_most_half_of_the_places_are_held() -> None:
    async def test() -> None:
        source = Source()
        shelf = source.shelf(2)
        shelf.hold("a", 60)
        shelf.hold("b", 60)
        for digest in "abc":
            await shelf.ensure(digest)
        assert source.held == {"a", "c"}

    run(test)
