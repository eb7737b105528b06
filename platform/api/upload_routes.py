"""Routes of uploads: a whole file in one request, or in parts that a client sends one by one."""

from pathlib import Path
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request, Response, status
from fastapi import Path as PathParameter
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Instance, needs
from looper.platform.api.part_uploads import PartUploads
from looper.platform.api.upload_models import MAX_NAME_CHARACTERS, UploadEnd, UploadInfo, UploadRequest
from looper.platform.api.upload_queue import UploadQueue
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.report import IngestReport

_FILE = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
"""What the OpenAPI document says of an uploaded file, which no model describes."""

Id = Annotated[str, PathParameter(max_length=64)]
"""Parameter type: the id of an upload that ``{upload}`` in the path names."""


def upload_router(
    catalog: Catalog,
    store: ObjectStore,
    folder: Path,
    route_class: type[APIRoute],
    threads: anyio.CapacityLimiter,
) -> APIRouter:
    """Return the routes under ``/instances`` that take trajectories.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster, for the ingested batches and for parts of files.
        folder: Folder for files while they are read.
        route_class: Class of the routes, which authenticates requests.
        threads: Threads of the control plane.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/instances", route_class=route_class, dependencies=[needs(Scope.SUBMIT)])
    queue = UploadQueue(catalog, store, folder)
    parts = PartUploads(catalog, store, queue, threads)

    @router.post(
        "/{instance}/trajectories", summary="Ingest a file of trajectories", openapi_extra={"requestBody": _FILE}
    )
    async def ingest(
        instance: Instance,
        request: Request,
        name: Annotated[
            str, Query(description="File name, for the report", min_length=1, max_length=MAX_NAME_CHARACTERS)
        ] = "upload",
        format: Annotated[str, Query(description="Name of a trajectory format, or auto", max_length=64)] = "auto",
        is_named: Annotated[
            bool, Query(description="Whether a file without trajectories is an error. Otherwise it is reported")
        ] = True,
    ) -> IngestReport:
        """Send the file as the request body. A new instance is created. Sending the same file again changes nothing."""
        return await queue.ingest(request, instance, name, format, is_named=is_named)

    @router.post("/{instance}/uploads", summary="Begin to upload a file in parts, or go on with it")
    def begin(instance: Instance, file: UploadRequest) -> UploadInfo:
        """Announcing the same file again finds the upload that has begun, with the parts that have arrived."""
        return parts.begin(instance, file)

    @router.put(
        "/{instance}/uploads/{upload}/parts/{number}",
        summary="Send a part of a file",
        status_code=status.HTTP_204_NO_CONTENT,
        openapi_extra={"requestBody": _FILE},
    )
    async def take_part(
        instance: Instance,
        request: Request,
        upload: Id,
        number: Annotated[int, PathParameter(ge=0, lt=2**20, description="Number of the part, from 0")],
        sha256: Annotated[str, Query(pattern="^[0-9a-f]{64}$", description="SHA-256 of the part")],
    ) -> Response:
        """Parts may come in any order and through any gateway. Sending the same part again changes nothing."""
        await parts.take_part(request, instance, upload, number, sha256)
        return Response(status_code=status.HTTP_204_NO_CONTENT)

    @router.post("/{instance}/uploads/{upload}/end", summary="Ingest a file whose parts have all arrived")
    async def end(instance: Instance, upload: Id, what: UploadEnd) -> IngestReport:
        """A new instance is created. Ending the same upload again returns the same report."""
        return await parts.end(instance, upload, what)

    return router
