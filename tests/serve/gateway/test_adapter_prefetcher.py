"""Prefetching on a real catalog, with an engine that records the calls."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.protocol import EngineOutput, EngineRequest
from tests.serve.cache.lru_caches import run
from tests.serve.published import adapter_files, publish_version

DESK, HELP = InstanceName("acme", "desk"), InstanceName("acme", "help")


class RecordingEngine:
    def __init__(self) -> None:
        self.prefetched: list[tuple[str, int, bool]] = []

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        assert not request, "no requests in this test"
        yield ""

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        self.prefetched.append((digest, rank, hold_s > 0))

    def take_prefetched(self) -> list[tuple[str, int, bool]]:
        prefetched, self.prefetched = self.prefetched, []
        return prefetched


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Catalog, dict[InstanceName, str]]]:
    (tmp_path / "looper.json").write_text('{"revision": "r"}')
    settings = load_settings(home=tmp_path / "home")
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    digests = {
        name: publish_version(catalog, store, name, adapter_files(tmp_path, name, name.instance.encode()))
        for name in (DESK, HELP)
    }
    yield catalog, digests
    catalog.close()


def test_a_promoted_version_is_prefetched_once(published: tuple[Catalog, dict[InstanceName, str]]) -> None:
    catalog, digests = published

    async def test() -> None:
        engine = RecordingEngine()
        prefetcher = AdapterPrefetcher(catalog, engine, max_popular=4)
        await prefetcher.prefetch_promoted()
        await prefetcher.prefetch_promoted()
        engine.take_prefetched()
        await prefetcher.prefetch_promoted()
        assert engine.take_prefetched() == []
        catalog.set_channel(DESK, "canary", digests[DESK])
        await prefetcher.prefetch_promoted()
        assert engine.take_prefetched() == [(digests[DESK], 8, False)]
        await prefetcher.prefetch_promoted()
        assert engine.take_prefetched() == []

    run(test)


def test_the_most_popular_version_is_prefetched_until_its_requests_stop(
    published: tuple[Catalog, dict[InstanceName, str]],
) -> None:
    catalog, digests = published

    async def test() -> None:
        engine = RecordingEngine()
        prefetcher = AdapterPrefetcher(catalog, engine, max_popular=1)
        for name, times in ((DESK, 2), (HELP, 5)):
            for _ in range(times):
                prefetcher.record_request(catalog.resolve_targets(ModelName(name))[0])
        await prefetcher.prefetch_popular()
        assert engine.take_prefetched() == [(digests[HELP], 8, False)]
        for _ in range(10):
            await prefetcher.prefetch_popular()
        engine.take_prefetched()
        await prefetcher.prefetch_popular()
        assert engine.take_prefetched() == []

    run(test)


def test_a_pinned_version_is_held_and_an_unknown_pinned_name_is_skipped(
    published: tuple[Catalog, dict[InstanceName, str]],
) -> None:
    catalog, digests = published

    async def test() -> None:
        engine = RecordingEngine()
        prefetcher = AdapterPrefetcher(catalog, engine, max_popular=1, pinned=["acme/nobody", "acme/help"])
        await prefetcher.prefetch_popular()
        assert engine.take_prefetched() == [(digests[HELP], 8, True)]

    run(test)
