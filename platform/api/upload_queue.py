"""Takes uploads from clients to disk, and has them read a few at a time. ``instance_routes`` calls it."""

import hashlib
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from fastapi import Request

from looper.platform.api.concurrency_limits import ConcurrencyLimits
from looper.platform.api.request_body import stream_body
from looper.platform.api.upload_models import UploadEnd
from looper.platform.catalog import Catalog, Upload
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
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

_WRITE_BYTES = 2**20
"""How much of a file is written to disk at a time, in bytes."""


class MissingPart(InvalidInput):
    """A part of an upload has not arrived."""


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
        self._running = ConcurrencyLimits("uploads")
        self._readers = anyio.CapacityLimiter(NUM_READERS)
        # Apart from the readers, so that files arrive while others are read.
        self._writers = anyio.CapacityLimiter(NUM_READERS)

    async def ingest(
        self, request: Request, instance: InstanceName, name: str, format: str, *, is_named: bool = True
    ) -> IngestReport:
        """Ingest the body of a request.

        Args:
            request: The request; nothing of its body has been read yet.
            instance: Instance that the trajectories belong to.
            name: Name of the file.
            format: Name of the format; ``auto`` detects it.
            is_named: Whether a file without trajectories is an error. Otherwise it is reported.

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
        with self._take_place(instance.tenant), temporary_file(self._folder) as file:
            await self._receive(request, file, name)
            return await self._read(file, instance, name, format, UploadEnd(is_named=is_named))

    async def ingest_parts(self, upload: Upload, end: UploadEnd) -> IngestReport:
        """Ingest a file whose parts are in the object store.

        Args:
            upload: The upload.
            end: What to do with it.

        Returns:
            A report of the file.

        Raises:
            MissingPart: A part has not arrived.
            InvalidInput: The parts are not the file, or it has no known format.
            RateLimited, Overloaded, TooLarge, StoreFull: As ``ingest``.
        """
        with self._take_place(upload.instance.tenant), temporary_file(self._folder) as file:
            await anyio.to_thread.run_sync(self._collect, upload, file, limiter=self._writers)
            return await self._read(file, upload.instance, upload.name, upload.format, end)

    def _take_place(self, tenant: str) -> AbstractContextManager[None]:
        return self._running.acquire(tenant, MAX_UPLOADS_PER_TENANT, MAX_UPLOADS)

    async def _read(
        self, file: BinaryIO, instance: InstanceName, name: str, format: str, end: UploadEnd
    ) -> IngestReport:
        ingest = partial(
            ingest_upload,
            name,
            file,
            instance,
            format,
            companions=end.companions,
            is_named=end.is_named,
            folder=self._folder,
            catalog=self._catalog,
            store=self._store,
        )
        return await anyio.to_thread.run_sync(ingest, limiter=self._readers)

    def _collect(self, upload: Upload, file: BinaryIO) -> None:
        """Write the parts of an upload to ``file``, one after the other."""
        digest = hashlib.sha256()
        try:
            for number in range(upload.num_parts):
                part = self._store.get(keys.upload_part(upload.instance.tenant, upload.id, number))
                digest.update(part)
                file.write(part)
        except NotFound as error:
            raise MissingPart(f"part {number} of upload {upload.id} has not arrived: send it first") from error
        except OSError as error:
            raise disk_full(self._folder, error) from error
        if digest.hexdigest() != upload.sha256:
            raise InvalidInput(f"upload {upload.id} is not the file that was announced: its SHA-256 is another one")

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
