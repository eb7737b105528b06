"""Routes of consolidations: submit, list, show, events and cancel."""

from typing import Annotated

from fastapi import APIRouter, Query, status
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Tenant, needs
from looper.platform.api.models import ConsolidationInfo, ConsolidationRequest, EventInfo
from looper.platform.api.submission import submit_consolidations
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import Scope
from looper.platform.settings import Settings


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

    @router.get("", summary="List the tenant's consolidations, newest first")
    def list_consolidations(
        tenant: Tenant, instance: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[ConsolidationInfo]:
        only = instance_of(tenant, instance) if instance else None
        return [ConsolidationInfo.from_consolidation(job) for job in catalog.list_consolidations(tenant, only, limit)]

    @router.get("/{id}", summary="Show one consolidation")
    def show_consolidation(tenant: Tenant, id: str) -> ConsolidationInfo:
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    @router.get("/{id}/events", summary="List what happened to a consolidation")
    def list_events(tenant: Tenant, id: str) -> list[EventInfo]:
        return [
            EventInfo.from_event(event) for event in catalog.list_events(consolidation=consolidation_of(tenant, id).id)
        ]

    @router.post("/{id}/cancel", summary="Cancel a consolidation that has not ended")
    def cancel(tenant: Tenant, id: str) -> ConsolidationInfo:
        catalog.cancel(consolidation_of(tenant, id).id)
        return ConsolidationInfo.from_consolidation(consolidation_of(tenant, id))

    return router
