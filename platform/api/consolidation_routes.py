"""Routes of consolidations: submit, list, show, events, report and cancel. And the recipes that the cluster trains."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status
from fastapi.routing import APIRoute
from pydantic import Field

from looper.platform.api.authenticated_route import AnyTenant, Key, Tenant, needs, require_tenant
from looper.platform.api.models import (
    MAX_IDS,
    ConsolidationInfo,
    ConsolidationRequest,
    EventInfo,
    ReportFormat,
)
from looper.platform.api.pages import NUMBER, TIME_AND_DIGEST, Cursor, page_response, parse_cursor
from looper.platform.api.reports import REPORT_TYPES, read_report
from looper.platform.api.submission import check_priority_of, submit_consolidations
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings

Id = Annotated[str, Path(max_length=64)]
"""Parameter type: the id of a consolidation that ``{id}`` in the path names."""

Ids = Annotated[
    list[Annotated[str, Field(max_length=64)]] | None,
    Query(max_length=MAX_IDS, description="Only these, in this order. They must all exist"),
]
"""Parameter type: ids of consolidations."""


def consolidation_router(
    settings: Settings, catalog: Catalog, store: ObjectStore, route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes under ``/consolidations`` and ``/recipe``.

    Args:
        settings: Settings of the cluster; submitted recipes are checked against them.
        catalog: Catalog of the cluster.
        store: Object store of the cluster, for reports and starts.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(route_class=route_class, dependencies=[needs(Scope.SUBMIT)])

    def instance_of(tenant: str, instance: str) -> InstanceName:
        return InstanceName(tenant, check_name(instance, "instance"))

    def consolidation_of(tenant: str | None, id: str) -> Consolidation:
        """Find a consolidation. Another tenant's gives the same error as one that does not exist."""
        (job,) = catalog.get_consolidations([id], tenant)
        return job

    @router.get("/recipe", summary="Show the recipe of consolidations that name none")
    def show_recipe() -> Recipe:
        return settings.consolidation.recipe

    @router.post("/recipe", summary="Check whether the cluster can train and serve by a recipe")
    def check_recipe(recipe: Recipe) -> Recipe:
        settings.check_recipe(recipe)
        return recipe

    @router.post("/consolidations", status_code=status.HTTP_202_ACCEPTED, summary="Submit consolidations")
    def submit(tenant: Tenant, key: Key, submission: ConsolidationRequest) -> list[ConsolidationInfo]:
        check_priority_of(key, submission.priority)
        instances = [instance_of(tenant, instance) for instance in submission.instances]
        jobs = submit_consolidations(catalog, store, settings, instances, submission.recipe, submission.priority)
        return [ConsolidationInfo.from_consolidation(job) for job in jobs]

    @router.get(
        "/consolidations", summary="List consolidations, newest first, in pages", response_model=list[ConsolidationInfo]
    )
    def list_consolidations(
        tenant: AnyTenant,
        instance: str | None = None,
        id: Ids = None,
        unfinished: Annotated[bool, Query(description="Only those that have not ended")] = False,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Cursor = None,
    ) -> Response:
        """The header `Link` has the next page. An operator's key that names no tenant lists those of all tenants."""
        if id:
            found = catalog.get_consolidations(id, tenant)
            return page_response(found, len(found), ConsolidationInfo.from_consolidation, lambda job: job.id)
        only = instance_of(require_tenant(tenant), instance) if instance else None
        after = parse_cursor(cursor, TIME_AND_DIGEST)
        found = catalog.list_consolidations(tenant, only, unfinished=unfinished, after=after, limit=limit + 1)
        return page_response(
            found,
            limit,
            ConsolidationInfo.from_consolidation,
            lambda job: (job.created_at, job.id),
            instance=instance or None,
            unfinished="true" if unfinished else None,
        )

    @router.get("/consolidations/{id}", summary="Show one consolidation")
    def show_consolidation(tenant: AnyTenant, id: Id) -> ConsolidationInfo:
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    @router.get(
        "/consolidations/{id}/events",
        summary="List what happened to a consolidation, oldest first, in pages",
        response_model=list[EventInfo],
    )
    def list_events(
        tenant: AnyTenant, id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        job = consolidation_of(tenant, id)
        after = parse_cursor(cursor, NUMBER)
        found = catalog.list_events(consolidation=job.id, instance=job.instance, after=after, limit=limit + 1)
        return page_response(found, limit, EventInfo.from_event, lambda event: event.id)

    @router.get(
        "/consolidations/{id}/report",
        summary="Show the report on the training data of a consolidation",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in REPORT_TYPES.values()}}},
    )
    def show_report(tenant: AnyTenant, id: Id, format: ReportFormat = "json") -> Response:
        """The counts as JSON, or the page for people, which has examples of what was kept and dropped."""
        job = consolidation_of(tenant, id)
        # The page quotes trajectories. A browser saves it and does not show it as a page of this server.
        headers = {"content-disposition": f'attachment; filename="report.{format}"'}
        return Response(read_report(store, job.id, format), media_type=REPORT_TYPES[format], headers=headers)

    @router.post("/consolidations/{id}/cancel", summary="Cancel a consolidation that has not ended")
    def cancel(tenant: AnyTenant, id: Id) -> ConsolidationInfo:
        catalog.cancel(consolidation_of(tenant, id).id)
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    return router
