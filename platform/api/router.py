"""Assembles the routes of ``/api/v1``.

Each acts for the tenant of the request's API key and sees that tenant only. An operator's key names the tenant that it
acts for (``authenticated_route``); routes that need scope operator are of all tenants.
"""

from collections.abc import Callable

from fastapi import APIRouter

from looper.platform.api.authenticated_route import authenticated_route
from looper.platform.api.cluster_routes import cluster_router
from looper.platform.api.consolidation_routes import consolidation_router
from looper.platform.api.error_handlers import ERROR_RESPONSES
from looper.platform.api.instance_routes import instance_router
from looper.platform.api.request_gate import RequestGate
from looper.platform.api.skill_routes import skill_router
from looper.platform.api.tenant_routes import tenant_router
from looper.platform.api.upload_routes import upload_router
from looper.platform.catalog import Catalog
from looper.platform.domain.version import Version
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def control_plane_router(
    settings: Settings,
    catalog: Catalog,
    store: ObjectStore,
    gate: RequestGate,
    prefetch: Callable[[Version], None] = lambda version: None,
) -> APIRouter:
    """Return the router to mount at the root of an application.

    Args:
        settings: Settings of the cluster; submitted recipes are checked against them.
        catalog: Catalog of the cluster.
        store: Object store of the cluster.
        gate: Threads and limits of the control plane.
        prefetch: Called in a worker thread with a version just before a channel is pointed to it, so that its adapter
            is loaded where requests for it will arrive.

    Returns:
        The router. The application needs ``error_handlers.install_error_handlers`` to answer its errors.
    """
    route_class = authenticated_route(catalog, gate)
    router = APIRouter(prefix="/api/v1", responses=ERROR_RESPONSES)
    router.include_router(instance_router(settings, catalog, store, route_class))
    router.include_router(upload_router(catalog, store, settings.home / "uploads", route_class, gate.threads))
    router.include_router(consolidation_router(settings, catalog, store, route_class))
    router.include_router(skill_router(catalog, store, prefetch, route_class, gate.threads))
    router.include_router(tenant_router(settings, catalog, store, route_class))
    router.include_router(cluster_router(catalog, route_class))
    return router
