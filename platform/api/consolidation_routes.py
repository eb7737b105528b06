"""Routes of consolidations: submit, list, show, events and cancel."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Tenant, needs
from looper.platform.api.models import ConsolidationInfo, ConsolidationRequest, EventInfo
from looper.platform.api.pages import NEWEST_FIRST, NUMBER, Cursor, page_response, parse_cursor
from looper.platform.api.submission import submit_consolidations
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import Scope
from looper.platform.settings import Settings

Id = Annotated[str, Path(max_length=64)]
"""Parameter type: the id of a consolidation that ``{id}`` in the path names."""


def consolidation_router(settings: Settings, catalog: Catalog, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/consolidations``.

    Args:
        settings: Settings of the cluster; submitted recipes are checked against them.
        catalog: Catalog of the cluster.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/consolidations", route_class=route_class, dependencies=[needs(Scope.SUBMIT)])

    def instance_of(tenant: str, instance: str) -> InstanceName:
        return InstanceName(tenant, check_name(instance, "instance"))

    def consolidation_of(tenant: str, id: str) -> Consolidation:
        """Find a consolidation of the tenant. Another tenant's gives the same error as one that does not exist."""
        not_found = NotFound(f"consolidation {id} does not exist")
        try:
            job = catalog.get_consolidation(id)
        except NotFound as error:
            raise not_found from error
        if job.instance.tenant != tenant:
            raise not_found
        return job

    @router.post("", status_code=status.HTTP_202_ACCEPTED, summary="Submit consolidations")
    def submit(tenant: Tenant, submission: ConsolidationRequest) -> list[ConsolidationInfo]:
        instances = [instance_of(tenant, instance) for instance in submission.instances]
        jobs = submit_consolidations(catalog, settings, instances, submission.recipe, submission.priority)
        return [ConsolidationInfo.from_consolidation(job) for job in jobs]

    @router.get(
        "", summary="List the tenant's consolidations, newest first, in pages", response_model=list[ConsolidationInfo]
    )
    def list_consolidations(
        tenant: Tenant,
        instance: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Cursor = None,
    ) -> Response:
        """The header `Link` has the next page."""
        only = instance_of(tenant, instance) if instance else None
        found = catalog.list_consolidations(tenant, only, after=parse_cursor(cursor, NEWEST_FIRST), limit=limit + 1)
        return page_response(
            found,
            limit,
            ConsolidationInfo.from_consolidation,
            lambda job: (job.created_at, job.id),
            instance=instance or None,
        )

    @router.get("/{id}", summary="Show one consolidation")
    def show_consolidation(tenant: Tenant, id: Id) -> ConsolidationInfo:
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    @router.get(
        "/{id}/events",
        summary="List what happened to a consolidation, oldest first, in pages",
        response_model=list[EventInfo],
    )
    def list_events(
        tenant: Tenant, id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        job = consolidation_of(tenant, id)
        after = parse_cursor(cursor, NUMBER)
        found = catalog.list_events(consolidation=job.id, instance=job.instance, after=after, limit=limit + 1)
        return page_response(found, limit, EventInfo.from_event, lambda event: event.id)

    @router.post("/{id}/cancel", summary="Cancel a consolidation that has not ended")
    def cancel(tenant: Tenant, id: Id) -> ConsolidationInfo:
        catalog.cancel(consolidation_of(tenant, id).id)
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    return router
