"""Uploads in parts: a file that a client sends piece by piece, to any gateway, and goes on with after a failure.

The client announces the file's size and SHA-256, sends each part with its own SHA-256 in any order and as often as it
likes, and ends the upload. The parts are immutable objects in the object store, so all gateways see them; the catalog
has a row for each upload, so all gateways count them. Nothing of the file is visible before it was read as a whole, and
reading it twice gives the same batch. What a client leaves behind is swept once it has expired.

``upload_routes`` has the routes; ``upload_queue`` reads the file. ``sweep_uploads`` runs in every gateway.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from looper.platform.api.request_body import read_body
from looper.platform.api.upload_models import PART_BYTES, UploadEnd, UploadInfo, UploadRequest
from looper.platform.api.upload_queue import MAX_UPLOAD_BYTES, MissingPart, UploadQueue
from looper.platform.catalog import Catalog, Upload
from looper.platform.catalog.rows import upload_not_found
from looper.platform.domain.errors import InvalidInput, LooperError, TooLarge
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.files import SUFFIXES
from looper.platform.trajectories.reading import unknown_format
from looper.platform.trajectories.report import IngestReport

SWEEP_INTERVAL_S = 3600.0
"""Time between two sweeps of a gateway, in seconds."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class PartUploads:
    """The uploads in parts, as one gateway takes them.

    Args:
        catalog: Catalog with the uploads' rows.
        store: Object store for the parts.
        queue: Reads the files.
        threads: Threads that wait for catalog and object store.
    """

    def __init__(
        self, catalog: Catalog, store: ObjectStore, queue: UploadQueue, threads: anyio.CapacityLimiter
    ) -> None:
        self._catalog = catalog
        self._threads = threads
        self._store = store
        self._queue = queue

    def begin(self, instance: InstanceName, file: UploadRequest) -> UploadInfo:
        """Begin an upload, or find the one that an earlier request has begun. It blocks.

        Args:
            instance: Instance that the trajectories belong to.
            file: The file.

        Returns:
            How to cut the file, and which parts have arrived.

        Raises:
            TooLarge: The file has more than ``MAX_UPLOAD_BYTES``.
            InvalidInput: No format has files of such a name.
            NotFound: The tenant does not exist.
            RateLimited: The tenant has the maximum number of unfinished uploads.
        """
        if file.size > MAX_UPLOAD_BYTES:
            raise TooLarge(f"{file.name} has more than {MAX_UPLOAD_BYTES // 2**20} MiB: split it into several files")
        if Path(file.name).suffix.lower() not in SUFFIXES:
            raise unknown_format(file.name)
        upload = self._catalog.open_upload(instance, part_bytes=PART_BYTES, **file.model_dump())
        folder = keys.upload(instance.tenant, upload.id)
        arrived = sorted(int(key.rpartition("/")[2]) for key in self._store.list(folder))
        return UploadInfo(
            id=upload.id,
            part_bytes=upload.part_bytes,
            parts=upload.num_parts,
            arrived=arrived,
            expires_at=upload.expires_at,
        )

    async def take_part(self, request: Request, instance: InstanceName, id: str, number: int, sha256: str) -> None:
        """Take the body of a request as a part. Taking the same part again changes nothing.

        Args:
            request: The request; nothing of its body has been read yet.
            instance: Instance of the upload.
            id: Id of the upload.
            number: Number of the part, from 0.
            sha256: SHA-256 of the part.

        Raises:
            NotFound: There is no such upload.
            InvalidInput: The upload has no such part, or the body is not the part.
            TooLarge: The body is longer than the part.
            TooSlow: The body arrives too slowly.
        """
        upload = await self._in_thread(partial(self._catalog.get_upload, id, instance))
        if number >= upload.num_parts:
            raise InvalidInput(f"upload {id} has {upload.num_parts} parts, numbered from 0: there is no part {number}")
        size = upload.size_of(number)
        content = await read_body(request, size, f"part {number} of upload {id} has {size} bytes, not more")
        await self._in_thread(partial(self._store_part, upload, number, content, sha256))

    def _store_part(self, upload: Upload, number: int, content: bytes, sha256: str) -> None:
        if len(content) != upload.size_of(number) or hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidInput(f"part {number} of upload {upload.id} arrived damaged: send it again")
        key = keys.upload_part(upload.instance.tenant, upload.id, number)
        self._store.put(key, content)
        if not self._catalog.keep_upload(upload.id):  # it ended meanwhile
            self._store.delete(key)
            raise upload_not_found(upload.id)

    async def end(self, instance: InstanceName, id: str, end: UploadEnd) -> IngestReport:
        """Ingest the file. Ending an upload again returns the same report.

        Args:
            instance: Instance of the upload.
            id: Id of the upload.
            end: What to do with it.

        Returns:
            The report of the file.

        Raises:
            NotFound: There is no such upload.
            InvalidInput: A part is missing, the parts are not the file, or it has no known format. In the last two
                cases the upload is deleted.
            RateLimited, Overloaded, TooLarge, StoreFull: As ``UploadQueue.ingest``.
        """
        upload = await self._in_thread(partial(self._catalog.get_upload, id, instance))
        if upload.report is not None:
            return upload.report
        try:
            report = await self._queue.ingest_parts(upload, end)
        except MissingPart:
            # A request before this one may have read the file, and its parts are deleted. Its client lost the response.
            read = await self._in_thread(partial(self._catalog.get_upload, id, instance))
            if read.report is None:
                raise
            return read.report
        except InvalidInput:
            await self._in_thread(partial(self._discard, upload))
            raise
        await self._in_thread(partial(self._finish, upload, report))
        return report

    def _finish(self, upload: Upload, report: IngestReport) -> None:
        self._catalog.finish_upload(upload.id, report)
        self._store.delete(keys.upload(upload.instance.tenant, upload.id))

    def _discard(self, upload: Upload) -> None:
        self._catalog.delete_upload(upload.id)
        self._store.delete(keys.upload(upload.instance.tenant, upload.id))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._threads)


def sweep_uploads(catalog: Catalog, store: ObjectStore) -> None:
    """Delete uploads that have expired, and parts that belong to no upload. It may run anywhere, repeatedly.

    Args:
        catalog: Catalog with the uploads' rows.
        store: Object store with the parts.
    """
    # The parts are listed first: what is there now and has no row afterwards is not one that has just begun.
    folders = {tuple(key.split("/")[1:3]) for key in store.list(keys.UPLOADS)}
    kept = catalog.list_upload_ids()
    for tenant, id in sorted(folders):
        if id not in kept:
            store.delete(keys.upload(tenant, id))


@asynccontextmanager
async def sweeping_uploads(catalog: Catalog, store: ObjectStore) -> AsyncIterator[None]:
    """Sweep uploads now and then while the context is open.

    Args:
        catalog: Catalog with the uploads' rows.
        store: Object store with the parts.

    Yields:
        Nothing.
    """

    async def sweep() -> None:
        while True:
            try:
                await anyio.to_thread.run_sync(sweep_uploads, catalog, store)
            except LooperError as error:  # the next sweep does it
                log.warning("uploads were not swept: %s", error.detail)
            await anyio.sleep(SWEEP_INTERVAL_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sweep)
        yield
        tasks.cancel_scope.cancel()
