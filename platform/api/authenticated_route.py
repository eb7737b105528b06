"""Routes that check the API key before they read the body, and the types by which routes get tenant and instance.

FastAPI by itself reads and parses the whole body of a request on the event loop first, and resolves dependencies such
as authentication afterwards. Anybody without a key could keep the event loop busy that way.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from looper.platform.api.request_body import JsonRequest
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.tenancy import authenticate

_bearer = HTTPBearer(auto_error=False, description="API key of a tenant, from `looper tenant key TENANT`")


def authenticated_route(catalog: Catalog) -> type[APIRoute]:
    """Return a route class that authenticates each request before anything else.

    Args:
        catalog: Catalog with the API keys.

    Returns:
        A class for ``APIRouter(route_class=...)``. Its requests have the tenant in ``state.tenant``. A request without
        a valid key ends with ``Unauthorized`` before its body is read.
    """

    class AuthenticatedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def authenticate_and_handle(request: Request) -> Response:
                bearer = await _bearer(request)
                key = bearer.credentials if bearer else None
                request.state.tenant = await run_in_threadpool(authenticate, catalog, key)
                return await handle(await JsonRequest.from_request(request) if self.body_field else request)

            return authenticate_and_handle

    return AuthenticatedRoute


async def _tenant(
    request: Request, _bearer_for_openapi: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    return str(request.state.tenant)


Tenant = Annotated[str, Depends(_tenant)]
"""Parameter type: the tenant of the API key."""


async def _instance(tenant: Tenant, instance: str) -> InstanceName:
    return InstanceName(tenant, check_name(instance, "instance"))


Instance = Annotated[InstanceName, Depends(_instance)]
"""Parameter type: the instance that ``{instance}`` in the path names, always one of the tenant's own."""
