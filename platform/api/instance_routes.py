"""Routes of instances: list, show, and ingest trajectories."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Instance, Tenant, needs
from looper.platform.api.models import InstanceInfo
from looper.platform.api.request_body import read_body
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.ingest import ingest_bytes
from looper.platform.trajectories.report import IngestReport

MAX_UPLOAD_BYTES = 256 * 2**20
"""Maximum size of one uploaded file of trajectories, in bytes."""


def instance_router(catalog: Catalog, store: ObjectStore, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/instances``.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster, for the ingested batches.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/instances", route_class=route_class, dependencies=[needs(Scope.SUBMIT)])

    @router.get("", summary="List the tenant's instances")
    def list_instances(tenant: Tenant) -> list[InstanceInfo]:
        return [InstanceInfo.from_catalog(catalog, instance) for instance in catalog.list_instances(tenant)]

    @router.get("/{instance}", summary="Show one instance")
    def show_instance(instance: Instance) -> InstanceInfo:
        return InstanceInfo.from_catalog(catalog, instance)

    @router.post("/{instance}/trajectories", summary="Ingest a file of trajectories")
    async def ingest(
        instance: Instance,
        request: Request,
        name: Annotated[str, Query(description="File name, for the report", max_length=255)] = "upload",
        format: Annotated[str, Query(description="Name of a trajectory format, or auto")] = "auto",
    ) -> IngestReport:
        """Send the file as the request body. A new instance is created. Sending the same file again changes nothing."""
        too_large = f"{name} has more than {MAX_UPLOAD_BYTES // 2**20} MiB: split it into several files"
        content = await read_body(request, MAX_UPLOAD_BYTES, too_large)
        return await run_in_threadpool(ingest_bytes, name, content, instance, format, catalog=catalog, store=store)

    return router
