"""Bring a base model to every node of a cluster: from the object store into the node's cache, once, and verified.

The process that prepares a base model puts its folder into the object store (``publish_base``). What is passed to other
processes is a ``BaseModelSource``, and each finds the folder on its own node. So all nodes have the same files, and no
path of one node is assumed on another.
"""

import hashlib
import logging
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from looper.platform.domain.errors import NotFound, StoreUnavailable
from looper.platform.domain.private_files import make_private_folder
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings.models import models_folder

log = logging.getLogger(__name__)

FILE_LIST = "files.json"
"""Object with the names, sizes and digests of a base model's files. Its own digest names the base model."""

_WEIGHTS = ".safetensors"

_BLOCK_BYTES = 1 << 24
_PROGRESS_INTERVAL_S = 5.0


class _BaseFile(BaseModel):
    """One file of a base model."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$")
    """Its name. It becomes a path, so it has no slash and does not begin with a dot."""
    bytes: int = Field(ge=0)
    """Its size."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Its digest."""


_FileList = TypeAdapter(list[_BaseFile])


@dataclass(frozen=True)
class StoredBase:
    """A base model in an object store."""

    store: ObjectStore
    """The object store."""
    digest: str
    """Digest of its list of files."""


@dataclass(frozen=True)
class BaseModelSource:
    """Where a process on any node gets the base model from."""

    folder: Path
    """Its folder on the node that prepared it."""
    stored: StoredBase | None = None
    """Its copy for other nodes. None, if all processes are on the node that prepared it."""

    def on_this_node(self, *, weights: bool = True) -> Path:
        """Return the folder of the base model on this node. The first call on a node downloads it.

        Args:
            weights: Whether the weights are needed. A tokenizer is small, and there are nodes that need nothing else.

        Returns:
            A folder that appears complete or not at all.

        Raises:
            StoreUnavailable: The object store failed, or the node's disk is full or not writable.
        """
        if self.stored is None:
            return self.folder
        return fetch_base(self.stored.store, self.stored.digest, models_folder(), weights=weights)


def publish_base(store: ObjectStore, folder: Path) -> BaseModelSource:
    """Put a prepared base model into the object store, unless it is there.

    Args:
        store: The object store of the cluster.
        folder: Folder of the base model on this node, in the folder of all base models.

    Returns:
        What other processes find it by.

    Raises:
        StoreUnavailable: The object store failed or is full.
    """
    files = [
        _BaseFile(name=file.name, bytes=file.stat().st_size, sha256=_digest(file))
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]
    content = _FileList.dump_json(files)
    digest = hashlib.sha256(content).hexdigest()
    if not store.exists(keys.base_model(digest, FILE_LIST)):
        progress = _Progress(f"base model {folder.name} to the object store", sum(file.bytes for file in files))
        for file in files:
            store.put_file(keys.base_model(digest, file.name), folder / file.name)
            progress.add(file.bytes)
        store.put(keys.base_model(digest, FILE_LIST), content)  # last: the base model is complete once it is there
    with suppress(FileExistsError):
        (folder.parent / digest).symlink_to(folder)  # this node has the files already
    return BaseModelSource(folder, StoredBase(store, digest))


def fetch_base(store: ObjectStore, digest: str, cache: Path, *, weights: bool = True) -> Path:
    """Return the folder of a base model on this node. If it is not there, download and verify it.

    Several processes may call this at the same time: one downloads, and the others wait for it.

    Args:
        store: The object store of the cluster.
        digest: Digest of the base model's list of files.
        cache: Folder of all base models on this node.
        weights: Whether the weights are needed.

    Returns:
        The folder.

    Raises:
        StoreUnavailable: The object store failed or has damaged files, or the disk is full or not writable.
    """
    folder = cache / digest
    if not weights and not folder.exists():
        folder = cache / f"{digest}-without-weights"
    if folder.exists():
        return folder
    try:
        make_private_folder(cache)
        with FileLock(cache / f"{folder.name}.lock"):
            if not folder.exists():
                _download(store, digest, folder, weights=weights)
    except OSError as error:
        raise StoreUnavailable(
            "a node cannot store the base model: try again",
            detail=f"node {socket.gethostname()} cannot write the base model to {cache}: {error}",
        ) from error
    return folder


def _download(store: ObjectStore, digest: str, folder: Path, *, weights: bool) -> None:
    try:
        content = store.get(keys.base_model(digest, FILE_LIST))
    except NotFound as error:
        raise StoreUnavailable(
            "the base model is not in the object store",
            detail=f"base model {digest} is not in object store {store.url}: is it the same one on every node?",
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(store, digest, FILE_LIST)
    files = [file for file in _FileList.validate_json(content) if weights or not file.name.endswith(_WEIGHTS)]
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)  # from a process that died; this process holds the lock now
    unfinished.mkdir()
    total, free = sum(file.bytes for file in files), shutil.disk_usage(unfinished).free
    if free < total:
        raise StoreUnavailable(
            "a node has no space for the base model",
            detail=f"node {socket.gethostname()} has {free / 1e9:.1f} GB free in {folder.parent}, and the base model "
            f"needs {total / 1e9:.1f} GB: free some space, or set XDG_CACHE_HOME to another disk on that node",
        )
    progress = _Progress(f"base model {digest[:12]} to node {socket.gethostname()}", total)
    for file in files:
        store.get_file(keys.base_model(digest, file.name), unfinished / file.name)
        if _digest(unfinished / file.name) != file.sha256:
            raise _damaged(store, digest, file.name)
        progress.add(file.bytes)
    unfinished.rename(folder)


def _damaged(store: ObjectStore, digest: str, name: str) -> StoreUnavailable:
    return StoreUnavailable(
        "a file of the base model is damaged in the object store",
        detail=f"{keys.base_model(digest, name)} in object store {store.url} is damaged: delete the folder "
        f"bases/{digest} there, and start the cluster again",
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class _Progress:
    """Logs how much of a copy is done, every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._logged_at = time.monotonic()

    def add(self, size: int) -> None:
        self._done += size
        if time.monotonic() - self._logged_at >= _PROGRESS_INTERVAL_S or self._done == self._total:
            self._logged_at = time.monotonic()
            log.info("%s: %.1f of %.1f GB", self._what, self._done / 1e9, self._total / 1e9)
