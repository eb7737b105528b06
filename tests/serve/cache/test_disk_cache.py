"""Adapters on local disk."""

from pathlib import Path
from typing import Any

import pytest

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import StoreUnavailable
from looper.serve.cache.disk_cache import claim_folder
from tests.serve.cache.lru_caches import disk, run

FILES = AdapterFiles(b"weights", b"{}", b"{}")
NAMES = {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}


def on_disk(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


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
        adapters = disk(lambda _: Slow(b"w", b"{}", b"{}"), folder)
        path = await adapters.bring("a")
        assert len(seen) == 3
        assert all("a" not in names for names in seen)
        assert on_disk(folder) == {"a"}
        assert on_disk(path) == NAMES
        await adapters.drop("a", path)
        assert on_disk(folder) == set()

    run(test)


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"

    class Full(AdapterFiles):
        def by_name(self) -> dict[str, bytes]:
            return super().by_name() | {"no-such-folder/file": b""}

    async def test() -> None:
        with pytest.raises(StoreUnavailable, match="adapter a could not be written"):
            await disk(lambda _: Full(b"w", b"{}", b"{}"), folder).bring("a")
        assert on_disk(folder) == set()

    run(test)


def test_what_an_earlier_process_left_is_not_trusted(tmp_path: Path) -> None:
    left = tmp_path / "adapters" / "a"
    left.mkdir(parents=True)
    (left / "adapter_config.json").write_text("half")

    async def test() -> None:
        path = await disk(lambda _: FILES, tmp_path / "adapters").bring("a")
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
