"""Immutable objects over fsspec, in a local folder or on S3.

All rooms keep trajectories, examples, adapters and checkpoints here. A reader never sees a partial object: ``put`` is a
rename in a folder and one request on S3.
"""

import errno
import os
import posixpath
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from looper.platform.domain.errors import NotFound, StoreFull, StoreUnavailable
from looper.platform.domain.private_files import make_private_folder, open_private
from looper.platform.settings import Settings

T = TypeVar("T")

PARTIAL_LIFETIME_S = 86400.0
"""Age at which an unfinished file in a folder store is deleted, in seconds since its last write."""

_PARTIAL_SUFFIX = ".partial"
"""End of the names of unfinished files."""

_COPY_BYTES = 1 << 24
"""Bytes that are in memory at a time while a file is copied."""

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL_S3_CODES = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"}
"""Error codes of MinIO and Ceph. S3 itself is never full. s3fs raises an OSError whose cause has the code."""


class ObjectStore:
    """Object store at one URL.

    Keys are relative paths. ``looper.platform.objectstore.keys`` makes them; they never come from a user.

    Args:
        url: URL of the store, for error messages.
        fs: fsspec file system.
        root: Path of the store in the file system.

    Attributes:
        url: URL of the store.
    """

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url = url
        self._fs = fs
        self._root = root.rstrip("/")

    @classmethod
    def open(cls, settings: Settings) -> "ObjectStore":
        """Return the store of ``settings``.

        This does not access the store. If the store is down, the first operation fails.
        """
        url, store = settings.store_url, settings.store
        options: dict[str, Any] = {}
        if url.startswith("s3://"):
            options = {
                "endpoint_url": store.endpoint_url,
                "use_listings_cache": False,
                "config_kwargs": {
                    "connect_timeout": store.timeout_s,
                    "read_timeout": store.timeout_s,
                    "retries": {"max_attempts": store.max_retries + 1, "mode": "standard"},
                },
            }
        fs, root = fsspec.core.url_to_fs(url, **options)
        return cls(url, fs, root)

    def exists(self, key: str) -> bool:
        """Return whether there is an object at ``key``.

        Raises:
            StoreUnavailable: The object store failed.
        """
        return self._guard(key, lambda: bool(self._fs.exists(self._path(key))))

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read an object.

        Args:
            key: Key of the object.
            max_bytes: Read only this many bytes from the start. None: the whole object.

        Returns:
            The content.

        Raises:
            NotFound: There is no such object.
            StoreUnavailable: The object store failed.
        """
        return self._guard(key, lambda: bytes(self._fs.cat_file(self._path(key), end=max_bytes)))

    def get_all(self, keys: Sequence[str], max_bytes: int | None = None) -> list[bytes]:
        """Read several objects concurrently.

        Args:
            keys: Keys of the objects.
            max_bytes: Read only this many bytes from the start of each object. None: the whole objects.

        Returns:
            The contents, in the order of ``keys``.

        Raises:
            NotFound: One of the objects does not exist.
            StoreUnavailable: The object store failed.
        """
        paths = [self._path(key) for key in keys]

        def read() -> list[bytes]:
            return [bytes(content) for content in self._fs.cat_ranges(paths, None, max_bytes, on_error="raise")]

        return self._guard(posixpath.commonpath(keys), read)

    def size(self, key: str) -> int:
        """Return the size of the object at ``key``, in bytes.

        Raises:
            NotFound: There is no such object.
            StoreUnavailable: The object store failed.
        """
        return self._guard(key, lambda: int(self._fs.size(self._path(key))))

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of an object.

        Args:
            key: Key of the object.
            start: First byte.
            end: Byte after the last one.

        Returns:
            The part.

        Raises:
            NotFound: There is no such object.
            StoreUnavailable: The object store failed.
        """
        return self._guard(key, lambda: bytes(self._fs.cat_file(self._path(key), start=start, end=end)))

    def put(self, key: str, content: bytes) -> None:
        """Write an object. If the object exists already, nothing changes, because objects are immutable.

        Args:
            key: Key of the object.
            content: Content of the object.

        Raises:
            StoreFull: The object store has no space left.
            StoreUnavailable: The object store failed.
        """
        self._guard(key, lambda: self._put(self._path(key), content))

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file of any size. If the object exists already, nothing changes.

        Args:
            key: Key of the object.
            path: The file.

        Raises:
            StoreFull: The object store has no space left.
            StoreUnavailable: The object store failed.
        """

        def upload() -> None:
            target = self._path(key)
            if isinstance(self._fs, LocalFileSystem):
                if not Path(target).exists():
                    with path.open("rb") as source:
                        _write_file(Path(target), lambda file: shutil.copyfileobj(source, file, _COPY_BYTES))
                self._sync_folders(Path(target))
            elif not self._fs.exists(target):
                self._fs.put_file(str(path), target)

        self._guard(key, upload)

    def get_file(self, key: str, path: Path) -> None:
        """Read an object of any size into a file.

        Args:
            key: Key of the object.
            path: The file, which is created or overwritten. After an error, it may have a part of the object.

        Raises:
            NotFound: There is no such object.
            StoreUnavailable: The object store failed, or the file could not be written.
        """
        self._guard(key, lambda: self._fs.get_file(self._path(key), str(path)))

    def list_folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder ``prefix``, sorted.

        On S3, a request returns up to a thousand folders, however many objects they have.

        Raises:
            StoreUnavailable: The object store failed.
        """

        def list_entries() -> list[dict[str, Any]]:
            try:
                return list(self._fs.ls(self._path(prefix), detail=True))
            except FileNotFoundError:
                return []

        found = self._guard(prefix, list_entries)
        return sorted(posixpath.basename(each["name"].rstrip("/")) for each in found if each["type"] == "directory")

    def list(self, prefix: str) -> list[str]:
        """Return the keys of all objects below the folder ``prefix``, sorted.

        Raises:
            StoreUnavailable: The object store failed.
        """
        found = self._guard(prefix, lambda: self._fs.find(self._path(prefix)))
        return sorted(path[len(self._root) + 1 :] for path in found if not path.endswith(_PARTIAL_SUFFIX))

    def delete(self, prefix: str) -> None:
        """Delete the object or folder ``prefix``, if it exists.

        Only checkpoints of ended consolidations, parts of ended uploads and starts that an operator removes are
        deleted. All else is immutable.

        Raises:
            StoreUnavailable: The object store failed.
        """

        def remove() -> None:
            if self._fs.exists(self._path(prefix)):
                self._fs.rm(self._path(prefix), recursive=True)

        self._guard(prefix, remove)

    def sweep_partials(self) -> None:
        """Delete what killed writers have left behind, once it is older than ``PARTIAL_LIFETIME_S``.

        Only a folder has such files. On S3, the bucket's lifecycle rule for incomplete uploads does the same.

        Raises:
            StoreUnavailable: The object store failed.
        """

        def sweep() -> None:
            oldest = time.time() - PARTIAL_LIFETIME_S
            for path in Path(self._root).rglob(f"*{_PARTIAL_SUFFIX}"):
                with suppress(FileNotFoundError):  # its writer has just finished
                    if path.stat().st_mtime < oldest:
                        path.unlink()

        if isinstance(self._fs, LocalFileSystem):
            self._guard("", sweep)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _put(self, path: str, content: bytes) -> None:
        if not isinstance(self._fs, LocalFileSystem):
            if not self._fs.exists(path):
                self._fs.pipe_file(path, content)
            return
        target = Path(path)
        if not target.exists():
            _write_file(target, lambda file: file.write(content))
        self._sync_folders(target)

    def _sync_folders(self, target: Path) -> None:
        # Also for an object that exists: its writer may have been killed before it came here. The new names of the file
        # and of its folders are on the disk only once the folders that hold them are.
        for folder in target.parents:
            _sync_folder(folder)
            if folder == Path(self._root):
                break

    def _guard(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError as error:
            raise NotFound(f"object {key} is not in the object store") from error
        except Exception as error:
            # For the same failure, fsspec back ends raise OSError, asyncio's TimeoutError or botocore's own exceptions.
            # Callers get one exception type, with the original as its cause.
            if _is_full(error):
                raise StoreFull(
                    f"the object store is full: {key} was not written; try again when there is space",
                    detail=f"object store {self.url} is full: {key} was not written ({error}); free some space, then "
                    "run the command again",
                ) from error
            raise StoreUnavailable(
                f"the object store failed on {key}: try again",
                detail=f"object store {self.url} failed on {key}: {type(error).__name__}: {error}; "
                "check that it is reachable and writable, then run the command again",
            ) from error


def _write_file(target: Path, write: Callable[[BinaryIO], object]) -> None:
    make_private_folder(target.parent)
    partial = Path(f"{target}.{uuid.uuid4().hex}{_PARTIAL_SUFFIX}")
    try:
        with open(partial, "wb", opener=open_private) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a network file system that has no such operation
            raise
    finally:
        os.close(descriptor)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        response = getattr(error, "response", None) or {}
        if getattr(error, "errno", None) in _FULL_ERRNOS or response.get("Error", {}).get("Code") in _FULL_S3_CODES:
            return True
        error = error.__cause__
    return False
