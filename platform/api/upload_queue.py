"""Takes uploads from clients to disk, and has them read a few at a time. ``instance_routes`` calls it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from fastapi import Request

from looper.platform.api.request_body import stream_body
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Overloaded, RateLimited
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.report import IngestReport
from looper.platform.trajectories.uploads import disk_full, ingest_upload, temporary_file

MAX_UPLOAD_BYTES = 256 * 2**20
"""Maximum size of one uploaded file of trajectories, in bytes."""

MAX_UPLOADS_PER_TENANT = 2
"""Maximum uploads of one tenant that arrive, wait or are read at the same time."""

MAX_UPLOADS = 16
"""Maximum uploads of all tenants that arrive, wait or are read. It bounds the disk space that they take."""

NUM_READERS = 3
"""Maximum uploads that are read at the same time. One tenant alone cannot take all of them."""

RETRY_AFTER_S = 5.0
"""Time after which a client should try an upload again that found no place, in seconds."""

_WRITE_BYTES = 2**20
"""How much of a file is written to disk at a time, in bytes."""


class UploadQueue:
    """The uploads of one gateway.

    Args:
        catalog: Catalog that gets the batches' rows.
        store: Object store that gets the batches.
        folder: Folder for the files while they are uploaded and read.
    """

    def __init__(self, catalog: Catalog, store: ObjectStore, folder: Path) -> None:
        self._catalog = catalog
        self._store = store
        self._folder = folder
        self._uploads = Counter[str]()
        self._readers = anyio.CapacityLimiter(NUM_READERS)
        # Apart from the readers, so that files arrive while others are read.
        self._writers = anyio.CapacityLimiter(NUM_READERS)

    async def ingest(self, request: Request, instance: InstanceName, name: str, format: str) -> IngestReport:
        """Ingest the body of a request.

        Args:
            request: The request; nothing of its body has been read yet.
            instance: Instance that the trajectories belong to.
            name: Name of the file.
            format: Name of the format; ``auto`` detects it.

        Returns:
            A report of the file.

        Raises:
            RateLimited: The tenant has the maximum number of uploads already.
            Overloaded: All tenants together have.
            TooLarge: The file has more than ``MAX_UPLOAD_BYTES``, or needs too much memory or time.
            TooSlow: The file arrives too slowly.
            InvalidInput: The file has no known format.
            StoreFull: There is no disk space for it.
        """
        with self._place(instance.tenant), temporary_file(self._folder) as file:
            await self._receive(request, file, name)
            ingest = partial(
                ingest_upload,
                name,
                file,
                instance,
                format,
                folder=self._folder,
                catalog=self._catalog,
                store=self._store,
            )
            return await anyio.to_thread.run_sync(ingest, limiter=self._readers)

    async def _receive(self, request: Request, file: BinaryIO, name: str) -> None:
        too_large = f"{name} has more than {MAX_UPLOAD_BYTES // 2**20} MiB: split it into several files"
        pending = bytearray()
        try:
            async for part in stream_body(request, MAX_UPLOAD_BYTES, too_large):
                pending += part
                if len(pending) >= _WRITE_BYTES:
                    await anyio.to_thread.run_sync(file.write, bytes(pending), limiter=self._writers)
                    pending.clear()
            await anyio.to_thread.run_sync(file.write, bytes(pending), limiter=self._writers)
            await anyio.to_thread.run_sync(file.flush, limiter=self._writers)
        except OSError as error:
            raise disk_full(self._folder, error) from error

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        """Take one of the tenant's places while the context is open."""
        if self._uploads[tenant] >= MAX_UPLOADS_PER_TENANT:
            raise RateLimited(
                f"tenant {tenant} already has {MAX_UPLOADS_PER_TENANT} uploads: retry when one has ended",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._uploads.total() >= MAX_UPLOADS:
            raise Overloaded("the server has too many uploads: try again", retry_after_s=RETRY_AFTER_S)
        self._uploads[tenant] += 1
        try:
            yield
        finally:
            self._uploads[tenant] -= 1
            if not self._uploads[tenant]:
                del self._uploads[tenant]
