"""Routes of instances: create, list, show and move. ``upload_routes`` takes trajectories, which creates them, too."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import AnyTenant, Instance, Key, Tenant, needs
from looper.platform.api.models import (
    BatchInfo,
    ConsolidationInfo,
    EventInfo,
    InstanceInfo,
    InstanceRequest,
    MoveRequest,
)
from looper.platform.api.pages import INSTANCE, NUMBER, TIME_AND_DIGEST, Cursor, page_response, parse_cursor
from looper.platform.api.submission import check_priority_of, submit_move
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def instance_router(settings: Settings, catalog: Catalog, store: ObjectStore, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/instances``.

    Args:
        settings: Settings of the cluster, with its base models.
        catalog: Catalog of the cluster.
        store: Object store of the cluster, for the starts that moves begin from.
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

    @router.post("", status_code=status.HTTP_201_CREATED, summary="Create an instance on a base model")
    def create_instance(tenant: Tenant, request: InstanceRequest) -> InstanceInfo:
        """An instance that has no version yet is put on the base model."""
        instance = InstanceName(tenant, check_name(request.name, "instance"))
        catalog.create_instance(instance, settings.for_base(request.base).base)
        return InstanceInfo.from_summary(catalog.get_instance(instance))

    @router.post(
        "/{instance}/move",
        status_code=status.HTTP_202_ACCEPTED,
        summary="Consolidate an instance's whole history on another base model",
    )
    def move_instance(instance: Instance, key: Key, request: MoveRequest) -> ConsolidationInfo:
        """The version before serves until the new one is published, and a rollback goes back to it."""
        check_priority_of(key, request.priority)
        job = submit_move(catalog, store, settings, instance, request.base, request.recipe, request.priority)
        return ConsolidationInfo.from_consolidation(job)

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
