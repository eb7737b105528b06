"""The disk tier of the adapter cache."""

from pathlib import Path
from typing import Any

import pytest

from looper.platform.adapters import AdapterFiles
from looper.platform.domain.errors import StoreUnavailable
from looper.serve.cache.disk_cache import claim_folder
from tests.serve.cache.lru_caches import make_disk_cache, run

FILES = AdapterFiles(b"weights", b"{}", b"{}")
NAMES = {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_folder_is_never_visible_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    observed: list[set[str]] = []

    class WatchedDict(dict[str, bytes]):
        def items(self) -> Any:
            for item in super().items():
                observed.append(entries(folder))
                yield item

    class WatchedFiles(AdapterFiles):
        def to_dict(self) -> dict[str, bytes]:
            return WatchedDict(super().to_dict())

    async def test() -> None:
        adapters = make_disk_cache(lambda _: WatchedFiles(b"w", b"{}", b"{}"), folder)
        path = await adapters.load("a")
        assert len(observed) == 3
        assert all("a" not in names for names in observed)
        assert entries(folder) == {"a"}
        assert entries(path) == NAMES
        await adapters.evict("a", path)
        assert entries(folder) == set()

    run(test)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"

    class UnwritableFiles(AdapterFiles):
        def to_dict(self) -> dict[str, bytes]:
            return super().to_dict() | {"no-such-folder/file": b""}

    async def test() -> None:
        with pytest.raises(StoreUnavailable, match="adapter a could not be written"):
            await make_disk_cache(lambda _: UnwritableFiles(b"w", b"{}", b"{}"), folder).load("a")
        assert entries(folder) == set()

    run(test)


def test_files_of_an_earlier_process_are_not_trusted(tmp_path: Path) -> None:
    left = tmp_path / "adapters" / "a"
    left.mkdir(parents=True)
    (left / "adapter_config.json").write_text("half")

    async def test() -> None:
        path = await make_disk_cache(lambda _: FILES, tmp_path / "adapters").load("a")
        assert entries(path) == NAMES

    run(test)


def test_processes_on_one_machine_claim_different_folders(tmp_path: Path) -> None:
    first, lock = claim_folder(tmp_path)
    second, other = claim_folder(tmp_path)
    assert first != second
    lock.close()
    again, lock = claim_folder(tmp_path)
    assert again == first
    lock.close()
    other.close()
