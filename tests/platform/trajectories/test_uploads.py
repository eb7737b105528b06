"""An uploaded file is read in a process that has bounds of memory and time, and gives the batch that the file gives."""

import itertools
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, StoreFull, TooLarge
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.trajectories import uploads
from looper.platform.trajectories.ingest import ingest_paths
from looper.platform.trajectories.report import FileReport
from looper.platform.trajectories.uploads import ingest_upload, temporary_file

DESK = InstanceName("acme", "desk")
EPISODE = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}


class Uploads:
    """A catalog and a store that take uploads."""

    def __init__(self, home: Path, catalog: Catalog) -> None:
        self.folder, self.catalog, self.store = home / "uploads", catalog, ObjectStore.open(load_settings(home=home))

    def ingest(self, name: str, content: bytes) -> FileReport:
        with temporary_file(self.folder) as file:
            file.write(content)
            report = ingest_upload(name, file, DESK, folder=self.folder, catalog=self.catalog, store=self.store)
        return report.files[0]

    @property
    def is_untouched(self) -> bool:
        return (
            not self.catalog.list_instances() and not self.store.list("trajectories") and not any(self.folder.iterdir())
        )


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Uploads]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        yield Uploads(tmp_path, catalog)


def test_an_upload_and_a_file_give_the_same_batch(tmp_path: Path, upload: Uploads) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(b"".join(orjson.dumps(EPISODE | {"task_id": str(n)}) + b"\n" for n in range(600)))
    ingest_paths([file], DESK, catalog=upload.catalog, store=upload.store)
    report = upload.ingest("post.jsonl", file.read_bytes())
    assert (report.path, report.kept) == ("post.jsonl", 600)
    assert len(upload.catalog.list_batches(DESK)) == 1
    assert not any(upload.folder.iterdir()), "no temporary file has a name"


def test_a_file_of_no_format_is_refused_in_one_line(upload: Uploads) -> None:
    with pytest.raises(InvalidInput, match=r"file 'post\.txt' has no known format"):
        upload.ingest("post.txt", b"hello")
    assert upload.is_untouched


def test_small_json_that_takes_much_memory_is_refused(upload: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MiB of empty lists take 170 MiB of memory or more. The process has 128 MiB, and 90 are its own."""
    monkeypatch.setattr(uploads, "MAX_MEMORY_BYTES", 128 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge, match=r"file 'post\.json' cannot be read with 0\.125 GiB of memory") as caught:
        upload.ingest("post.json", b"[" + b"[]," * (8 * 2**20 // 3) + b"0]")
    assert "\n" not in str(caught.value)
    assert upload.is_untouched
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10, "KiB of this process"


def test_a_file_that_takes_too_long_is_refused(upload: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stops itself after a second of computing, of which its start takes a part."""
    monkeypatch.setattr(uploads, "MAX_CPU_S", 1)
    with pytest.raises(TooLarge, match=r"in 1 s: split it"):
        upload.ingest("post.jsonl", (orjson.dumps(EPISODE) + b"\n") * 300_000)
    assert upload.is_untouched


def test_a_batch_that_is_too_large_is_refused(upload: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BATCH_BYTES", 2**10)
    with pytest.raises(TooLarge):
        upload.ingest("post.jsonl", orjson.dumps(EPISODE))
    assert upload.is_untouched


def test_the_process_gets_no_environment(upload: Uploads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = tmp_path / "environment"
    spy = tmp_path / "python"
    spy.write_text(f"#!/bin/sh\n/usr/bin/env >{seen}\nexit 80\n")
    spy.chmod(0o700)
    monkeypatch.setattr(uploads.sys, "executable", str(spy))  # type: ignore[attr-defined]
    with pytest.raises(TooLarge):
        upload.ingest("post.jsonl", b"{}")
    assert "secret" not in seen.read_text()


def test_a_disk_without_space_is_said_so(upload: Uploads, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFull, match="no disk space for the upload"), temporary_file(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("number", "content"), [(0, EPISODE), (1, EPISODE), (2, EPISODE), (3, EPISODE), (3, "no trajectory")]
)
def test_a_disk_that_fills_up_meanwhile_is_said_so(
    number: int, content: object, upload: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take the first files and not the next: the upload, the batch, what lies beside it, and the answer."""
    opened, make = itertools.count(), tempfile.TemporaryFile

    def open_file(**options: Any) -> Any:
        return (
            Path("/dev/full").open("r+b", buffering=-1 if number == 0 else 0)
            if next(opened) == number
            else make(**options)
        )

    monkeypatch.setattr(tempfile, "TemporaryFile", open_file)
    with pytest.raises(StoreFull, match="no disk space for the upload"):
        upload.ingest("post.jsonl", orjson.dumps(content))


def test_a_temporary_file_is_only_its_users(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as file:
        assert os.fstat(file.fileno()).st_mode & 0o077 == 0
        assert not any(tmp_path.iterdir())
