"""Routes that check the API key and its scopes before they read the body, and the types for tenant and instance.

``/v1`` and ``/api/v1`` both use it: this is the only place that decides who may do what.

FastAPI by itself reads and parses the whole body of a request on the event loop first, and resolves dependencies such
as authentication afterwards. Anybody without a key could keep the event loop busy that way.
"""

from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, Request, Response, Security, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from looper.platform.api.headers import TENANT_HEADER
from looper.platform.api.request_body import JsonRequest
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import ApiKey
from looper.platform.domain.actor import acting_as
from looper.platform.domain.errors import Forbidden, InvalidInput
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import OPERATOR_SCOPES, Scope, format_scopes, granted_scopes
from looper.platform.tenancy import KeyReader, authenticate
from looper.platform.tenancy.last_use import LastUseRecorder

_bearer = HTTPBearer(
    auto_error=False,
    description="API key of a tenant, from `looper tenant key TENANT --scopes SCOPES`, or of an operator, from "
    f"`looper operator key NAME`. The scopes are {format_scopes(Scope)}; each route lists those that it needs. A "
    f"request with an operator's key names the tenant that it acts for in the header `{TENANT_HEADER}`.",
)


def needs(scope: Scope) -> params.Security:
    """Declare which scope a route needs.

    Args:
        scope: The scope that the API key must have.

    Returns:
        An entry for ``dependencies=[...]`` of a route, or of a router for all of its routes.
    """
    security: params.Security = Security(_bearer, scopes=[scope])
    return security


def needs_a_key() -> params.Security:
    """Declare that any valid key opens a route, whatever its scopes are.

    Returns:
        An entry for ``dependencies=[...]`` of a route.
    """
    security: params.Security = Security(_bearer)
    return security


def authenticated_route(catalog: KeyReader, gate: RequestGate | None = None) -> type[APIRoute]:
    """Return a route class that authenticates each request and checks its scopes before anything else.

    A route without ``needs(...)`` is a mistake, and raises TypeError when it is defined.

    Args:
        catalog: Catalog with the API keys.
        gate: Threads and limits of the routes, None for the application's threads and no limits here.

    Returns:
        A class for ``APIRouter(route_class=...)``. Its requests have the tenant that they act for in ``state.tenant``,
        None for an operator's that name none, the API key in ``state.key``, and in ``state.account`` whose limits they
        count against. A request without a valid key ends with ``Unauthorized``, one whose key lacks a scope or names
        another tenant with ``Forbidden``, and one above a limit with ``RateLimited``, before its body is read.
    """
    last_use, threads = LastUseRecorder(catalog), gate.threads if gate else None

    class AuthenticatedRoute(APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            if gate:
                endpoint = gate.in_threads(endpoint, options.get("status_code"))
            super().__init__(path, endpoint, **options)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle, needed = super().get_route_handler(), _scopes_of(self)

            async def authenticate_and_handle(request: Request) -> Response:
                bearer = await _bearer(request)
                key = bearer.credentials if bearer else None
                api_key = await anyio.to_thread.run_sync(authenticate, catalog, key, limiter=threads)
                last_use.record(api_key.id)
                _check_scopes(api_key, needed)
                request.state.tenant = _acting_tenant(api_key, request.headers.get(TENANT_HEADER))
                request.state.key, request.state.account = api_key, _account_of(api_key)
                with acting_as(api_key.actor), gate.admit(request.state.account) if gate else nullcontext():
                    if self.body_field:
                        request = await JsonRequest.from_request(request, threads)
                    return await handle(request)

            return authenticate_and_handle

    return AuthenticatedRoute


def _check_scopes(key: ApiKey, needed: frozenset[Scope]) -> None:
    if missing := needed - granted_scopes(key.tenant, key.scopes):
        way_out = f"looper tenant key TENANT --scopes {format_scopes(needed)}"
        if missing <= OPERATOR_SCOPES:
            way_out = "only an operator's key has it, from looper operator key NAME on a machine of the cluster"
        raise Forbidden(f"the key lacks scope {format_scopes(missing)}, it has {format_scopes(key.scopes)}: {way_out}")


def _acting_tenant(key: ApiKey, named: str | None) -> str | None:
    """Return the tenant that a request acts for. A tenant's key acts for no other tenant."""
    if named is None:
        return key.tenant
    check_name(named, "tenant")
    if key.tenant not in (None, named):
        raise Forbidden(f"the key belongs to tenant {key.tenant} and cannot act for {named}: use a key of {named}")
    return named


def _account_of(key: ApiKey) -> str:
    """Return whose limits a request counts against, in words. An operator's requests are not the tenant's."""
    return f"tenant {key.tenant}" if key.tenant is not None else f"operator's key {key.name}"


def _scopes_of(route: APIRoute) -> frozenset[Scope]:
    """Return the scopes that a route needs, from ``needs`` at itself and at its routers."""
    declared = [each.scopes or () for each in route.dependencies if isinstance(each, params.Security)]
    if not declared:
        raise TypeError(f"route {route.path} declares no scope: add dependencies=[needs(Scope....)]")
    return frozenset(Scope(scope) for scopes in declared for scope in scopes)


def require_tenant(tenant: str | None) -> str:
    """Return the ``tenant`` that a request acts for.

    Raises:
        InvalidInput: An operator's request names none.
    """
    if tenant is None:
        raise InvalidInput(f"an operator's key belongs to no tenant: name one in the header {TENANT_HEADER}")
    return tenant


async def _tenant(request: Request) -> str:
    return require_tenant(request.state.tenant)


async def _any_tenant(request: Request) -> str | None:
    tenant: str | None = request.state.tenant
    return tenant


async def _key(request: Request) -> ApiKey:
    key: ApiKey = request.state.key
    return key


Key = Annotated[ApiKey, Depends(_key)]
"""Parameter type: the API key of the request."""

Tenant = Annotated[str, Depends(_tenant)]
"""Parameter type: the tenant that the request acts for."""

AnyTenant = Annotated[str | None, Depends(_any_tenant)]
"""Parameter type: the tenant that the request acts for, or None for an operator's request that concerns all tenants.
Routes that read may take it, and those that change what an id names that is unique among all tenants."""


async def _instance(tenant: Tenant, instance: str) -> InstanceName:
    return InstanceName(tenant, check_name(instance, "instance"))


Instance = Annotated[InstanceName, Depends(_instance)]
"""Parameter type: the instance that ``{instance}`` in the path names, always one of the tenant's own."""
