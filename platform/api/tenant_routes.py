"""Routes of the tenant itself: its API keys, its limits, its audit trail. And an operator's routes of all tenants."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from fastapi.routing import APIRoute

from looper.platform import revocation
from looper.platform.api.authenticated_route import AnyTenant, Key, Tenant, needs, needs_a_key
from looper.platform.api.pages import NAME, Cursor, page_response, parse_cursor
from looper.platform.api.tenant_models import (
    AuditInfo,
    EffectiveLimits,
    IssuedKey,
    KeyInfo,
    KeyRequest,
    TenantInfo,
    TenantLimits,
    TenantRequest,
)
from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.tenancy import issue_key


def tenant_router(settings: Settings, catalog: Catalog, store: ObjectStore, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/key``, ``/keys``, ``/limits``, ``/audit`` and ``/tenants``.

    Args:
        settings: Settings of the cluster, with the limits of tenants that have none of their own.
        catalog: Catalog of the cluster.
        store: Object store of the cluster; revocations are marked there.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(route_class=route_class)
    admin, operator = [needs(Scope.ADMIN)], [needs(Scope.OPERATOR)]

    def limits_of(tenant: str) -> EffectiveLimits:
        return EffectiveLimits.of(catalog.get_quota(tenant), settings.serve)

    @router.get("/key", summary="Show the API key of this request", dependencies=[needs_a_key()])
    def show_key(key: Key) -> KeyInfo:
        return KeyInfo.from_key(key)

    @router.get("/keys", summary="List the tenant's API keys: valid ones first, then the newest", dependencies=admin)
    def list_keys(tenant: Tenant) -> list[KeyInfo]:
        return [KeyInfo.from_key(key) for key in catalog.list_keys(tenant)]

    @router.post("/keys/{key}/revoke", summary="Revoke an API key by its name or its id", dependencies=admin)
    def revoke_key(tenant: AnyTenant, key: str) -> KeyInfo:
        """An operator's key that names no tenant revokes any tenant's key by its id."""
        return KeyInfo.from_key(revocation.revoke_tenant_key(catalog, store, key, tenant))

    @router.get("/limits", summary="Show the tenant's rate limits", dependencies=admin)
    def show_limits(tenant: Tenant) -> EffectiveLimits:
        return limits_of(tenant)

    @router.get("/audit", summary="List who changed what, newest first", dependencies=admin)
    def list_audit_trail(
        tenant: Tenant,
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[AuditInfo]:
        """Give the last id of a page as `before` to get the next page."""
        return [AuditInfo.from_event(event) for event in catalog.list_audit_trail(tenant, before=before, limit=limit)]

    @router.get(
        "/tenants", summary="List all tenants by name, in pages", response_model=list[TenantInfo], dependencies=operator
    )
    def list_tenants(limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: Cursor = None) -> Response:
        """The header `Link` has the next page."""
        found = catalog.page_tenants(after=parse_cursor(cursor, NAME), limit=limit + 1)
        return page_response(found, limit, TenantInfo.from_overview, lambda tenant: tenant.name)

    @router.post(
        "/tenants",
        summary="Create a tenant and issue its first API key",
        status_code=status.HTTP_201_CREATED,
        dependencies=operator,
    )
    def create_tenant(tenant: TenantRequest) -> IssuedKey:
        """The response is the only one that has the key."""
        catalog.create_tenant(tenant.name)
        return IssuedKey(tenant=tenant.name, key=issue_key(catalog, tenant.name))

    @router.post(
        "/tenants/{tenant}/keys",
        summary="Issue an API key for a tenant",
        status_code=status.HTTP_201_CREATED,
        dependencies=operator,
    )
    def create_key(tenant: str, wanted: KeyRequest) -> IssuedKey:
        """The response is the only one that has the key. Operators' keys are issued on a machine of the cluster."""
        lifetime = None if wanted.lifetime_s is None else timedelta(seconds=wanted.lifetime_s)
        key = issue_key(catalog, tenant, name=wanted.name, scopes=frozenset(wanted.scopes), lifetime=lifetime)
        return IssuedKey(tenant=tenant, key=key)

    @router.get("/tenants/{tenant}/limits", summary="Show a tenant's rate limits", dependencies=operator)
    def show_limits_of(tenant: str) -> EffectiveLimits:
        return limits_of(tenant)

    @router.put("/tenants/{tenant}/limits", summary="Set a tenant's own rate limits", dependencies=operator)
    def set_limits(tenant: str, limits: TenantLimits) -> EffectiveLimits:
        catalog.set_quota(tenant, Quota(**limits.model_dump()))
        return limits_of(tenant)

    return router
