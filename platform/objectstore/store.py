"""Immutable objects over fsspec. What a reader sees is whole: a put is a rename on a folder, one request on S3."""

import errno
import os
import posixpath
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from looper.platform.domain.errors import NotFound, StoreFull, StoreUnavailable
from looper.platform.settings import Settings

T = TypeVar("T")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_ON_S3 = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"}
"""MinIO's codes and Ceph's: S3 itself is never full. s3fs hands what it does not know on as the cause of an OSError."""


class ObjectStore:
    """Keys are relative paths made by ``looper.platform.objectstore.keys``, never by a user."""

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url = url
        self._fs = fs
        self._root = root.rstrip("/")

    @classmethod
    def open(cls, settings: Settings) -> "ObjectStore":
        """The store that ``settings`` name. Touches nothing yet: a store that is down shows at the first call."""
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
        return self._guard(key, lambda: bool(self._fs.exists(self._path(key))))

    def get(self, key: str, first: int | None = None) -> bytes:
        """The object, or so many of its ``first`` bytes."""
        return self._guard(key, lambda: bytes(self._fs.cat_file(self._path(key), end=first)))

    def get_all(self, keys: Sequence[str], first: int | None = None) -> list[bytes]:
        """The same of several objects at once. Raises as ``get`` does, of any that it fails on."""
        paths = [self._path(key) for key in keys]

        def read() -> list[bytes]:
            return [bytes(content) for content in self._fs.cat_ranges(paths, None, first, on_error="raise")]

        return self._guard(posixpath.commonpath(keys), read)

    def put(self, key: str, content: bytes) -> None:
        """Write ``content`` at ``key`` unless something is there already: what is written never changes."""
        self._guard(key, lambda: self._put(self._path(key), content))

    def list(self, prefix: str) -> list[str]:
        """Keys below ``prefix``, sorted."""
        found = self._guard(prefix, lambda: self._fs.find(self._path(prefix)))
        return sorted(path[len(self._root) + 1 :] for path in found if not path.endswith(".partial"))

    def delete(self, prefix: str) -> None:
        """Remove ``prefix`` and all below it. For checkpoints of finished work only: all else is immutable."""

        def remove() -> None:
            if self._fs.exists(self._path(prefix)):
                self._fs.rm(self._path(prefix), recursive=True)

        self._guard(prefix, remove)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _put(self, path: str, content: bytes) -> None:
        if self._fs.exists(path):
            return
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{path}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _guard(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError as error:
            raise NotFound(f"object {key} is not in the store {self.url}") from error
        except Exception as error:
            # fsspec back ends raise OSError, asyncio's TimeoutError and botocore's own tree for one and the same
            # thing: the store did not do it. All of them leave here under one name, the cause attached.
            if _is_full(error):
                raise StoreFull(
                    f"object store {self.url} is full: {key} was not written ({error}); make room, then run the "
                    "command again"
                ) from error
            raise StoreUnavailable(
                f"object store {self.url} failed on {key}: {type(error).__name__}: {error}; "
                "check that it is reachable and writable, then run the command again"
            ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        response = getattr(error, "response", None) or {}
        if getattr(error, "errno", None) in _FULL or response.get("Error", {}).get("Code") in _FULL_ON_S3:
            return True
        error = error.__cause__
    return False
