"""The cache, with strings as entries."""

import asyncio
from collections import Counter
from contextvars import ContextVar

import pytest

from looper.platform.domain.errors import CorruptAdapter, LooperError, NotFound, StoreUnavailable
from looper.serve.cache.pinned_lru_cache import PREFETCHES, PinnedLRUCache
from tests.serve.cache.lru_caches import run, until


class Source:
    """Loads any entry once ``gate`` is open, or raises one of ``errors``. ``loaded`` has the entries not evicted."""

    def __init__(self, **errors: LooperError) -> None:
        self.errors = errors
        self.load_counts: Counter[str] = Counter()
        self.loaded: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.concurrent_loads = 0

    async def load(self, digest: str) -> str:
        self.load_counts[digest] += 1
        self.concurrent_loads += 1
        await self.gate.wait()
        self.concurrent_loads -= 1
        if digest in self.errors:
            raise self.errors[digest]
        self.loaded.add(digest)
        return f"the {digest}"

    async def evict(self, digest: str, entry: str) -> None:
        assert entry == f"the {digest}"
        self.loaded.remove(digest)
        await asyncio.sleep(0)

    def make_cache(self, capacity: int, *, cache_errors_s: float = 10) -> PinnedLRUCache[str]:
        return PinnedLRUCache(self.load, self.evict, capacity, cache_errors_s=cache_errors_s)


def test_concurrent_callers_load_an_entry_once() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        cache = source.make_cache(4)
        tasks = [asyncio.create_task(cache.get("a")) for _ in range(5)]
        await until(lambda: source.load_counts["a"] == 1)
        source.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"the a"}
        await cache.get("a")
        assert source.load_counts == {"a": 1}

    run(test)


def test_different_entries_load_in_parallel() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        cache = source.make_cache(4)
        tasks = [asyncio.create_task(cache.get(digest)) for digest in "abcd"]
        await until(lambda: source.concurrent_loads == 4)
        source.gate.set()
        await asyncio.gather(*tasks)

    run(test)


def test_the_least_recently_used_entry_is_evicted_and_can_be_loaded_again() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(2)
        for digest in "abac":
            await cache.get(digest)
        assert source.loaded == {"a", "c"}
        await cache.get("b")
        assert source.loaded == {"b", "c"}
        assert source.load_counts == {"a": 1, "b": 2, "c": 1}

    run(test)


def test_pinned_entries_stay_and_a_full_cache_waits_for_an_unpin() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(2)
        async with cache.pin("a"):
            await cache.get("b")
            await cache.get("c")
            assert source.loaded == {"a", "c"}
            async with cache.pin("c"):
                waiting = asyncio.create_task(cache.get("d"))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                assert source.loaded == {"a", "c"}
            await waiting
            assert source.loaded == {"a", "d"}
        await cache.get("e")
        assert source.loaded == {"d", "e"}

    run(test)


def test_the_capacity_is_never_exceeded() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(3)
        most = 0

        async def use(digest: str) -> None:
            nonlocal most
            async with cache.pin(digest):
                await asyncio.sleep(0.001)
                assert digest in source.loaded
                most = max(most, len(source.loaded))

        await asyncio.gather(*(use(str(number % 11)) for number in range(200)))
        assert most <= 3

    run(test)


@pytest.mark.parametrize("error", [NotFound("a is gone"), CorruptAdapter("a is corrupt")])
def test_a_permanent_error_is_cached_for_a_while_and_affects_no_other_entry(error: LooperError) -> None:
    async def test() -> None:
        source = Source(a=error)
        cache = source.make_cache(1, cache_errors_s=0.2)
        for _ in range(3):
            with pytest.raises(type(error)):
                async with cache.pin("a"):
                    raise AssertionError("unreachable")
        assert source.load_counts == {"a": 1}
        await cache.get("b")
        await asyncio.sleep(0.2)
        del source.errors["a"]
        await cache.get("a")
        assert source.load_counts == {"a": 2, "b": 1}

    run(test)


def test_an_unavailable_store_is_retried_immediately() -> None:
    async def test() -> None:
        source = Source(a=StoreUnavailable("down"))
        cache = source.make_cache(1)
        with pytest.raises(StoreUnavailable):
            await cache.get("a")
        source.errors.clear()
        await cache.get("a")

    run(test)


def test_a_canceled_caller_does_not_cancel_the_load_for_others() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        cache = source.make_cache(1)
        first, second = (asyncio.create_task(cache.get("a")) for _ in range(2))
        await until(lambda: source.load_counts["a"] == 1)
        first.cancel()
        source.gate.set()
        await second
        assert first.cancelled()
        assert source.load_counts == {"a": 1}

    run(test)


def test_a_load_does_not_belong_to_the_request_that_began_it() -> None:
    """Ray cancels what a request has begun, by a context variable, when its client goes away."""
    request: ContextVar[str] = ContextVar("request", default="none")
    seen = []

    async def load(digest: str) -> str:
        seen.append(request.get())
        return digest

    async def evict(digest: str, entry: str) -> None:
        raise AssertionError

    async def test() -> None:
        request.set("the first")
        await PinnedLRUCache(load, evict, 4, cache_errors_s=10).get("a")

    run(test)
    assert seen == ["none"]


def test_a_held_entry_is_not_evicted() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(2)
        cache.hold("a", 0.05)
        for digest in "abc":
            await cache.get(digest)
        assert source.loaded == {"a", "c"}
        assert "a" in cache
        await asyncio.sleep(0.06)
        await cache.get("d")
        assert source.loaded == {"c", "d"}
        assert cache.evictions == 2

    run(test)


def test_at_most_half_of_the_places_can_be_held() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(2)
        cache.hold("a", 60)
        cache.hold("b", 60)
        for digest in "abc":
            await cache.get(digest)
        assert source.loaded == {"a", "c"}

    run(test)


def test_places_go_to_tenants_in_rotation() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(2)
        order: list[str] = []

        async def use(digest: str, tenant: str) -> None:
            async with cache.pin(digest, tenant):
                order.append(tenant)
                await asyncio.sleep(0.001)

        many = [asyncio.create_task(use(f"many {number}", "many")) for number in range(64)]
        await until(lambda: len(order) >= 2)
        before = len(order)
        await use("one", "one")
        assert order.index("one") <= before + 4
        await asyncio.gather(*many)

    run(test)


def test_a_tenant_that_pins_all_it_can_leaves_a_place_to_others() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(4)
        release = asyncio.Event()
        order: list[str] = []

        async def use(digest: str) -> None:
            async with cache.pin(digest, "many"):
                order.append(digest)
                await release.wait()

        many = [asyncio.create_task(use(f"many {number}")) for number in range(8)]
        await until(lambda: len(order) == 3)
        async with cache.pin("one", "one"):
            assert len(order) == 3
        release.set()
        await asyncio.gather(*many)

    run(test)


def test_a_tenant_with_more_than_its_share_evicts_its_own_entries() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(4)
        for digest in ("a", "b"):
            await cache.get(digest, "few")
        for number in range(20):
            await cache.get(f"many {number}", "many")
        assert source.loaded == {"a", "b", "many 18", "many 19"}
        await cache.get("c", "third")
        assert {"c"} < source.loaded
        assert source.load_counts["a"] == 1

    run(test)


def test_the_share_of_others_is_free_for_a_tenant_that_is_alone() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(4)
        for number in range(8):
            await cache.get(f"many {number}", "many")
        assert source.loaded == {f"many {number}" for number in range(4, 8)}

    run(test)


def test_prefetches_come_after_requests_and_are_loaded_a_few_at_once() -> None:
    async def test() -> None:
        source = Source()
        source.gate.clear()
        cache = PinnedLRUCache(source.load, source.evict, 100, max_loads=4)
        tasks = [asyncio.create_task(cache.get(f"p{number}", PREFETCHES)) for number in range(20)]
        await until(lambda: source.concurrent_loads == 2)
        tasks += [asyncio.create_task(cache.get(f"r{number}", "tenant")) for number in range(8)]
        tasks.append(asyncio.create_task(cache.get("p19", "tenant")))  # a request for what waits to be prefetched
        await until(lambda: source.concurrent_loads == 4)
        assert source.load_counts.keys() == {"p0", "p1", "r0", "p19"}
        source.gate.set()
        await asyncio.gather(*tasks)
        order = list(source.load_counts)
        assert order.index("r7") < order.index("p5")

    run(test)


def test_nothing_is_loaded_for_callers_that_gave_up() -> None:
    async def test() -> None:
        source = Source()
        cache = source.make_cache(1)
        async with cache.pin("a", "tenant"):
            waiting = [asyncio.create_task(cache.get("b", "tenant")) for _ in range(2)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            # Another one, in the moment in which the load for the others is canceled.
            again = asyncio.create_task(cache.get("c", "tenant"))
            await asyncio.sleep(0)
        assert await again == "the c"
        assert source.load_counts == {"a": 1, "c": 1}
        assert await cache.get("b", "tenant") == "the b"

    run(test)
