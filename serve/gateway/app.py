"""The gateway: the HTTP application that clients talk to. It knows tenants and model names; engines know only digests.

A request is authenticated, its model name is resolved to a version, and the version's digest is sent to the engine. The
modules, in the order in which a request meets them:

metrics               counts, traces and logs requests (``request_log``)
turn_end              tells the proxy that a request is with the engines
openai_app            the routes of ``/v1``, API keys, ``rate_limits``
completion_handler    ``model_resolver``, ``traffic_split``, ``request_recorder``, then the engine
response_stream       the response on its way back; ``revocation`` stops it
model_routes          the model list
known_catalog         what they read from the catalog, and while it is away
adapter_prefetcher    loads adapters before requests wait for them

The errors are listed in ``serve/error_responses.py``. ``deployment/ray_app.py`` runs the gateway in Ray Serve.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext

import anyio
import anyio.from_thread
from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

from looper.platform.api import control_plane_router
from looper.platform.api.authenticated_route import Instance, authenticated_route, needs
from looper.platform.api.error_handlers import ERROR_RESPONSES, install_error_handlers
from looper.platform.api.models import VersionTraffic
from looper.platform.api.part_uploads import sweeping_uploads
from looper.platform.api.request_gate import RequestGate
from looper.platform.catalog import Catalog, Quota
from looper.platform.domain.scopes import Scope
from looper.platform.domain.version import Version
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import ServeSettings, Settings
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.gateway.budgets import BudgetSource, LeasedBudgets, MemoryBudgets
from looper.serve.gateway.completion_handler import CompletionHandler
from looper.serve.gateway.gateway_counts import GatewayCounts, GatewayPeers, export_metrics, summarize_traffic
from looper.serve.gateway.known_catalog import REQUEST_TIMEOUT_S, KnownCatalog
from looper.serve.gateway.lost_proxy import LostProxyMiddleware
from looper.serve.gateway.metrics import MetricsMiddleware
from looper.serve.gateway.model_resolver import ModelResolver
from looper.serve.gateway.openai_app import openai_app
from looper.serve.gateway.rate_limits import TenantRateLimiter
from looper.serve.gateway.revocation import RevocationWatcher
from looper.serve.gateway.turn_end import TurnEndMiddleware
from looper.serve.protocol import EngineClient
from looper.serve.requests.checks import RequestLimits

PROMOTION_PREFETCH_TIMEOUT_S = 10.0
"""Maximum time that a promotion waits for its adapter, in seconds. An engine may have to start first."""

DEFAULT_CONCURRENT_PER_SEQUENCE = 4
"""Default limit of a tenant's concurrent sequences at each gateway, as a multiple of what all engines run at a time."""


def build_gateway(
    settings: Settings,
    catalog: Catalog,
    store: ObjectStore,
    engine: EngineClient,
    *,
    counts: GatewayCounts | None = None,
    peers: GatewayPeers | None = None,
    beside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> FastAPI:
    """Build the HTTP application with ``/v1`` (OpenAI's API), ``/api/v1``, ``/healthz`` and ``/metrics``.

    Args:
        settings: Settings of the cluster.
        catalog: Catalog of the cluster. Its connections are the control plane's; ``/v1`` gets others.
        store: Object store of the cluster.
        engine: Engines that generate the responses.
        counts: What this gateway counts. Default: new counts.
        peers: All gateways, to ask them for their counts. None: there is only this one.
        beside: Returns a context that is open while the application runs.

    Returns:
        The application. Its background tasks run during its lifespan.
    """
    counts, outage_s = counts or GatewayCounts(), settings.catalog.outage_s
    gate = RequestGate(settings.api)
    # Connections of their own, so that neither the control plane nor a catalog that hangs takes them from inference.
    bounded = catalog.with_timeout(min(REQUEST_TIMEOUT_S, settings.catalog.timeout_s))
    revoked = RevocationWatcher(bounded, store, outage_s)
    known = KnownCatalog(bounded, revoked, outage_s)
    prefetcher = AdapterPrefetcher(catalog, engine, pinned=settings.serve.pinned)
    resolver = ModelResolver(settings.base_names, known)
    engines = {name: settings.for_base(name).serve for name in settings.base_names}
    completions = CompletionHandler(
        resolver,
        engine,
        metrics=counts.metrics,
        traffic=counts.traffic,
        revoked=revoked,
        prefetcher=prefetcher,
        limits={name: RequestLimits(serve.seats, serve.max_model_len) for name, serve in engines.items()},
        timeout_s=settings.serve.request_timeout_s,
    )
    gateways = settings.serve.gateways
    shared_budgets = LeasedBudgets(bounded, gateways) if gateways > 1 else None

    @asynccontextmanager
    async def run_background_tasks(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(revoked.running())
            await stack.enter_async_context(prefetcher.running())
            await stack.enter_async_context(sweeping_uploads(catalog, store))
            if shared_budgets:
                await stack.enter_async_context(shared_budgets.running())
            await stack.enter_async_context(beside())
            yield
        bounded.close()

    async def prefetch(version: Version) -> None:
        with anyio.move_on_after(PROMOTION_PREFETCH_TIMEOUT_S):
            await engine.prefetch(version.base, version.digest, version.rank, 0.0)

    def prefetch_from_thread(version: Version) -> None:
        """Prefetch a version from a worker thread of the application, before a channel is pointed to it."""
        anyio.from_thread.run(prefetch, version)

    app = FastAPI(
        title="Looper", summary="Control plane: instances, consolidations, skills", lifespan=run_background_tasks
    )
    install_error_handlers(app)
    app.add_middleware(LostProxyMiddleware)
    app.include_router(control_plane_router(settings, catalog, store, gate, prefetch_from_thread))
    app.include_router(_traffic_router(catalog, gate, counts, peers))
    app.include_router(_monitoring_router(counts, peers, known))
    max_running = sum(serve.seats * serve.max_engines for serve in engines.values())
    limiter = _build_limiter(settings.serve, max_running, shared_budgets or MemoryBudgets())
    openai = openai_app(known, limiter, resolver, completions)
    app.mount("/v1", MetricsMiddleware(TurnEndMiddleware(openai), counts.metrics))
    return app


def _build_limiter(serve: ServeSettings, max_running: int, budgets: BudgetSource) -> TenantRateLimiter:
    default = Quota(requests_per_minute=serve.requests_per_minute, tokens_per_minute=serve.tokens_per_minute)
    max_concurrent = DEFAULT_CONCURRENT_PER_SEQUENCE * max_running
    if serve.max_concurrent_requests is not None:
        max_concurrent = max(1, serve.max_concurrent_requests // serve.gateways)
    return TenantRateLimiter(default, max_concurrent, budgets)


def _traffic_router(
    catalog: Catalog, gate: RequestGate, counts: GatewayCounts, peers: GatewayPeers | None
) -> APIRouter:
    route_class = authenticated_route(catalog, gate)
    router = APIRouter(prefix="/api/v1/skills", route_class=route_class, responses=ERROR_RESPONSES)

    @router.get(
        "/{instance}/traffic",
        summary="Compare the versions of a skill with a canary",
        dependencies=[needs(Scope.SUBMIT)],
    )
    async def show_traffic(instance: Instance) -> dict[str, VersionTraffic]:
        return await summarize_traffic(counts, peers, instance)

    return router


def _monitoring_router(counts: GatewayCounts, peers: GatewayPeers | None, catalog: KnownCatalog) -> APIRouter:
    """Return the routes for health checks, which need no API key, and for Prometheus, which need an operator's.

    The metrics are of all tenants: their difference before and after a request is what the request of another used.
    """
    router = APIRouter(include_in_schema=False)
    operator_only = APIRouter(
        include_in_schema=False, route_class=authenticated_route(catalog), dependencies=[needs(Scope.METRICS)]
    )

    @router.get("/healthz")
    async def check_health(response: Response) -> dict[str, str]:
        """Tell whether inference is served: ok; degraded while the catalog is away; unavailable, with 503."""
        if catalog.health == "unavailable":
            response.status_code = 503
        return {"status": catalog.health}

    @operator_only.get("/metrics")
    async def show_metrics() -> Response:
        return Response(await export_metrics(counts, peers), media_type=CONTENT_TYPE_LATEST)

    router.include_router(operator_only)
    return router
