"""Routes of instances: list and show what was ingested and what happened. ``upload_routes`` takes trajectories."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import AnyTenant, Instance, needs
from looper.platform.api.models import BatchInfo, EventInfo, InstanceInfo
from looper.platform.api.pages import INSTANCE, NUMBER, TIME_AND_DIGEST, Cursor, page_response, parse_cursor
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope


def instance_router(catalog: Catalog, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/instances``.

    Args:
        catalog: Catalog of the cluster.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/instances", route_class=route_class, dependencies=[needs(Scope.SUBMIT)])

    @router.get("", summary="List instances by name, in pages", response_model=list[InstanceInfo])
    def list_instances(
        tenant: AnyTenant, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page. An operator's key that names no tenant lists those of all tenants."""
        after = parse_cursor(cursor, INSTANCE)
        found = catalog.page_instances(tenant, after=after and InstanceName(*after), limit=limit + 1)
        return page_response(found, limit, InstanceInfo.from_summary, lambda row: tuple(row.instance))

    @router.get("/{instance}", summary="Show one instance")
    def show_instance(instance: Instance) -> InstanceInfo:
        return InstanceInfo.from_summary(catalog.get_instance(instance))

    @router.get(
        "/{instance}/batches", summary="List ingested files, oldest first, in pages", response_model=list[BatchInfo]
    )
    def list_batches(
        instance: Instance, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        found = catalog.list_batches(instance, after=parse_cursor(cursor, TIME_AND_DIGEST), limit=limit + 1)
        return page_response(found, limit, BatchInfo.from_batch, lambda batch: (batch.created_at, batch.id))

    @router.get(
        "/{instance}/events",
        summary="List what happened to an instance, oldest first, in pages",
        response_model=list[EventInfo],
    )
    def list_events(
        instance: Instance, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        found = catalog.list_events(instance=instance, after=parse_cursor(cursor, NUMBER), limit=limit + 1)
        return page_response(found, limit, EventInfo.from_event, lambda event: event.id)

    return router
