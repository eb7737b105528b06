"""Routes of the tenant itself: its API keys, its limits, its audit trail. And an operator's routes of all tenants."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute

from looper.platform import revocation
from looper.platform.api.authenticated_route import Tenant, needs
from looper.platform.api.models import AuditInfo, KeyInfo, TenantLimits
from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore


def tenant_router(catalog: Catalog, store: ObjectStore, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/keys``, ``/limits``, ``/audit`` and ``/tenants``.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster; revocations are marked there.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(route_class=route_class)
    admin, operator = [needs(Scope.ADMIN)], [needs(Scope.OPERATOR)]

    @router.get("/keys", summary="List the tenant's API keys: valid ones first, then the newest", dependencies=admin)
    def list_keys(tenant: Tenant) -> list[KeyInfo]:
        return [KeyInfo.from_key(key) for key in catalog.list_keys(tenant)]

    @router.post("/keys/{key}/revoke", summary="Revoke an API key by its name or its id", dependencies=admin)
    def revoke_key(tenant: Tenant, key: str) -> KeyInfo:
        return KeyInfo.from_key(revocation.revoke_key(catalog, store, key, tenant=tenant))

    @router.get("/limits", summary="Show the tenant's own rate limits", dependencies=admin)
    def show_limits(tenant: Tenant) -> TenantLimits:
        return TenantLimits(**catalog.get_quota(tenant).model_dump())

    @router.get("/audit", summary="List who changed what, newest first", dependencies=admin)
    def list_audit_trail(
        tenant: Tenant,
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[AuditInfo]:
        """Give the last id of a page as `before` to get the next page."""
        return [AuditInfo.from_event(event) for event in catalog.list_audit_trail(tenant, before=before, limit=limit)]

    @router.get("/tenants", summary="List all tenants", dependencies=operator)
    def list_tenants() -> list[str]:
        return catalog.list_tenants()

    @router.get("/tenants/{tenant}/limits", summary="Show a tenant's own rate limits", dependencies=operator)
    def show_limits_of(tenant: str) -> TenantLimits:
        return TenantLimits(**catalog.get_quota(tenant).model_dump())

    @router.put("/tenants/{tenant}/limits", summary="Set a tenant's own rate limits", dependencies=operator)
    def set_limits(tenant: str, limits: TenantLimits) -> TenantLimits:
        catalog.set_quota(tenant, Quota(**limits.model_dump()))
        return limits

    return router
