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

from looper.platform.api.request_body import JsonRequest
from looper.platform.api.request_gate import RequestGate
from looper.platform.domain.actor import acting_as
from looper.platform.domain.errors import Forbidden
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import Scope, format_scopes
from looper.platform.tenancy import KeyReader, authenticate
from looper.platform.tenancy.last_use import LastUseRecorder

_bearer = HTTPBearer(
    auto_error=False,
    description="API key of a tenant, from `looper tenant key TENANT --scopes SCOPES`. "
    f"The scopes are {format_scopes(Scope)}; each route lists those that it needs.",
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


def authenticated_route(catalog: KeyReader, gate: RequestGate | None = None) -> type[APIRoute]:
    """Return a route class that authenticates each request and checks its scopes before anything else.

    A route without ``needs(...)`` is a mistake, and raises TypeError when it is defined.

    Args:
        catalog: Catalog with the API keys.
        gate: Threads and limits of the routes, None for the application's threads and no limits here.

    Returns:
        A class for ``APIRouter(route_class=...)``. Its requests have the tenant in ``state.tenant`` and the API key in
        ``state.key``. A request without a valid key ends with ``Unauthorized``, one whose key lacks a scope with
        ``Forbidden``, and one above a limit with ``RateLimited``, before its body is read.
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
                if missing := needed - api_key.scopes:
                    raise Forbidden(
                        f"the key lacks scope {format_scopes(missing)}, it has {format_scopes(api_key.scopes)}: "
                        f"looper tenant key TENANT --scopes {format_scopes(needed)}"
                    )
                request.state.tenant, request.state.key = api_key.tenant, api_key
                with (
                    acting_as(f"key:{api_key.name}/{api_key.id}"),
                    gate.admit(api_key.tenant) if gate else nullcontext(),
                ):
                    if self.body_field:
                        request = await JsonRequest.from_request(request, threads)
                    return await handle(request)

            return authenticate_and_handle

    return AuthenticatedRoute


def _scopes_of(route: APIRoute) -> frozenset[Scope]:
    """Return the scopes that a route needs, from ``needs`` at itself and at its routers."""
    declared = [each.scopes or () for each in route.dependencies if isinstance(each, params.Security)]
    scopes = frozenset(Scope(scope) for scopes in declared for scope in scopes)
    if not scopes:
        raise TypeError(f"route {route.path} declares no scope: add dependencies=[needs(Scope....)]")
    return scopes


async def _tenant(request: Request) -> str:
    return str(request.state.tenant)


Tenant = Annotated[str, Depends(_tenant)]
"""Parameter type: the tenant of the API key."""


async def _instance(tenant: Tenant, instance: str) -> InstanceName:
    return InstanceName(tenant, check_name(instance, "instance"))


Instance = Annotated[InstanceName, Depends(_instance)]
"""Parameter type: the instance that ``{instance}`` in the path names, always one of the tenant's own."""
