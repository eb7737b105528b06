"""Routes of instances: list, show, and ingest trajectories."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Instance, Tenant, needs
from looper.platform.api.models import InstanceInfo
from looper.platform.api.pages import NAME, Cursor, page_response, parse_cursor
from looper.platform.api.upload_queue import UploadQueue
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.report import IngestReport

_FILE = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
"""What the OpenAPI document says of an uploaded file, which no model describes."""


def instance_router(catalog: Catalog, store: ObjectStore, uploads: Path, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/instances``.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster, for the ingested batches.
        uploads: Folder for files while they are uploaded and read.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/instances", route_class=route_class, dependencies=[needs(Scope.SUBMIT)])
    queue = UploadQueue(catalog, store, uploads)

    @router.get("", summary="List the tenant's instances by name, in pages", response_model=list[InstanceInfo])
    def list_instances(
        tenant: Tenant, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        last = parse_cursor(cursor, NAME)
        found = catalog.page_instances(tenant, after=InstanceName(tenant, last) if last else None, limit=limit + 1)
        return page_response(found, limit, InstanceInfo.from_summary, lambda row: row.instance.instance)

    @router.get("/{instance}", summary="Show one instance")
    def show_instance(instance: Instance) -> InstanceInfo:
        return InstanceInfo.from_summary(catalog.get_instance(instance))

    @router.post(
        "/{instance}/trajectories", summary="Ingest a file of trajectories", openapi_extra={"requestBody": _FILE}
    )
    async def ingest(
        instance: Instance,
        request: Request,
        name: Annotated[str, Query(description="File name, for the report", max_length=255)] = "upload",
        format: Annotated[str, Query(description="Name of a trajectory format, or auto", max_length=64)] = "auto",
    ) -> IngestReport:
        """Send the file as the request body. A new instance is created. Sending the same file again changes nothing."""
        return await queue.ingest(request, instance, name, format)

    return router
