"""What is brought before anyone waits for it, on a real catalog and an engine that notes what it is told."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.protocol import EngineRequest, Reply
from tests.serve.cache.lru_caches import run
from tests.serve.published import adapter_files, publish_version

DESK, HELP = InstanceName("acme", "desk"), InstanceName("acme", "help")


class Notes:
    def __init__(self) -> None:
        self.prefetched: list[tuple[str, int, bool]] = []

    async def answer(self, ask: EngineRequest) -> AsyncGenerator[Reply, None]:
        raise AssertionError("nobody asks")
        yield ""

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
        self.prefetched.append((digest, rank, hold_s > 0))

    def taken(self) -> list[tuple[str, int, bool]]:
        taken, self.prefetched = self.prefetched, []
        return taken


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Catalog, dict[InstanceName, str]]]:
    (tmp_path / "looper.json").write_text('{"revision": "r"}')
    settings = load_settings(home=tmp_path / "home")
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    digests = {
        name: publish_version(catalog, store, name, adapter_files(tmp_path, name, name.instance.encode()))
        for name in (DESK, HELP)
    }
    yield catalog, digests
    catalog.close()


def test_what_a_channel_is_pointed_to_is_brought_once(world: tuple[Catalog, dict[InstanceName, str]]) -> None:
    catalog, digests = world

    async def test() -> None:
        notes = Notes()
        foresight = AdapterPrefetcher(catalog, notes, warm=4)
        await foresight.promoted()
        notes.taken()
        await foresight.promoted()
        assert notes.taken() == []
        catalog.point(DESK, "canary", digests[DESK])
        await foresight.promoted()
        assert notes.taken() == [(digests[DESK], 8, False)]
        await foresight.promoted()
        assert notes.taken() == []

    run(test)


def test_the_most_popular_are_brought_again_until_nobody_asks(world: tuple[Catalog, dict[InstanceName, str]]) -> None:
    catalog, digests = world

    async def test() -> None:
        notes = Notes()
        foresight = AdapterPrefetcher(catalog, notes, warm=1)
        for name, times in ((DESK, 2), (HELP, 5)):
            for _ in range(times):
                foresight.asked(catalog.targets(ModelName(name))[0])
        await foresight.warm()
        assert notes.taken() == [(digests[HELP], 8, False)]
        for _ in range(10):
            await foresight.warm()
        notes.taken()
        await foresight.warm()
        assert notes.taken() == []

    run(test)


def test_what_is_pinned_is_held_and_a_name_that_is_nobody_s_does_no_harm(
    world: tuple[Catalog, dict[InstanceName, str]],
) -> None:
    catalog, digests = world

    async def test() -> None:
        notes = Notes()
        foresight = AdapterPrefetcher(catalog, notes, warm=1, pinned=["acme/nobody", "acme/help"])
        await foresight.warm()
        assert notes.taken() == [(digests[HELP], 8, True)]

    run(test)
