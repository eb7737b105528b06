"""The application that is mounted at ``/v1``: OpenAI's routes, behind API keys and rate limits.

``app.build_gateway`` creates it. Its errors are listed in ``serve/error_responses.py``.
"""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRouter

from looper.platform.api.authenticated_route import Tenant, authenticated_route, needs
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.domain.scopes import Scope
from looper.serve.error_responses import RequestRefused
from looper.serve.gateway.completion_handler import CompletionHandler, to_http_response
from looper.serve.gateway.known_catalog import KnownCatalog
from looper.serve.gateway.model_resolver import ModelResolver
from looper.serve.gateway.model_routes import model_router
from looper.serve.gateway.rate_limits import RequestCharge, TenantRateLimiter


def openai_app(
    catalog: KnownCatalog, limiter: TenantRateLimiter, resolver: ModelResolver, completions: CompletionHandler
) -> FastAPI:
    """Return the application.

    It is an application of its own, so that an unknown path is answered in OpenAI's form too.

    Args:
        catalog: Catalog with API keys, quotas and skills.
        limiter: Rate limits of the tenants.
        resolver: Resolves model names.
        completions: Handles chat and completion requests.

    Returns:
        The application. It needs ``MetricsMiddleware`` and ``TurnEndMiddleware`` around it.
    """
    app = FastAPI(openapi_url=None)
    install_error_handlers(app)
    app.add_exception_handler(RequestRefused, _on_refused)
    route_class = authenticated_route(catalog)
    router = APIRouter(route_class=route_class, dependencies=[needs(Scope.INFER)])
    app.include_router(_completion_router(catalog, limiter, completions, router))
    app.include_router(model_router(catalog, resolver, route_class))
    return app


def _completion_router(
    catalog: KnownCatalog, limiter: TenantRateLimiter, completions: CompletionHandler, router: APIRouter
) -> APIRouter:
    async def admit(request: Request, tenant: Tenant) -> AsyncIterator[RequestCharge]:
        """Apply the tenant's rate limits. The request counts as concurrent until its response has ended."""
        request.state.record.tenant = tenant
        with limiter.track_request(tenant) as charge:
            await limiter.admit(tenant, await run_in_threadpool(catalog.get_quota, tenant), time.monotonic())
            yield charge

    @router.post("/chat/completions")
    async def create_chat_completion(
        request: Request, tenant: Tenant, charge: Annotated[RequestCharge, Depends(admit)]
    ) -> Response:
        return await completions.handle("chat", request, tenant, request.state.record, charge)

    @router.post("/completions")
    async def create_completion(
        request: Request, tenant: Tenant, charge: Annotated[RequestCharge, Depends(admit)]
    ) -> Response:
        return await completions.handle("completions", request, tenant, request.state.record, charge)

    return router


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return to_http_response(error.response)
