"""The gateway: what clients talk to. It knows tenants and model names; behind it there are digests only.

A request is authorised, its model's name is resolved to a version through the catalog (never cached, so that promoting
a version takes effect with the next request), and handed to the engine. vLLM's answer goes back as it is, except that
``model`` says again what the client asked for.
"""

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import ceil, inf
from typing import Annotated, Any

import anyio
import anyio.from_thread
import orjson
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from looper.platform.api import control_plane
from looper.platform.api.errors import answer_errors
from looper.platform.api.models import VersionTraffic
from looper.platform.catalog import Catalog, Quota, Target
from looper.platform.domain.consolidation import Version
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName, ModelName, check_name
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.tenancy import authenticate
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.gateway.metrics import GatewayMetrics, MetricsMiddleware
from looper.serve.gateway.rate_limits import Bill, TenantRateLimiter
from looper.serve.gateway.request_log import RequestRecord as Seen
from looper.serve.gateway.request_recorder import RequestRecorder, TrafficStats
from looper.serve.gateway.response_stream import ResponseStream
from looper.serve.gateway.revocation import RevocationWatcher
from looper.serve.gateway.traffic_split import TrafficSplitter
from looper.serve.protocol import (
    BYTES_PER_TOKEN,
    Body,
    Endpoint,
    EngineClient,
    EngineRequest,
    EngineUnavailable,
    FullResponse,
    error,
)

MAX_BODY = 8 * 2**20
"""Bytes of one request."""

VERSION_HEADER = "x-looper-version"
"""Carries the digest of the version that answered. Absent from the base model's answers."""

BRING_S = 10.0
"""Longest that a promotion waits for its adapter: an engine may have to be started first."""

ADAPTER_HEADER = "x-looper-adapter"
"""Says where the adapter was found: "memory", "disk" or "store"."""

LINE = 4
"""Of one tenant, times as many requests may be here as all engines answer together, unless settings say how many."""

WITHIN_HEADER = "x-looper-within-s"
"""A client's: refuse the request at once, with 503, if its answer would begin later than in so many seconds."""

CHANNELS = ("base", "version", "prod", "canary")
"""Labels of metrics; a tenant's other channels are "other"."""

log = logging.getLogger(__name__)


class RequestRefused(Exception):
    """Ends a request with ``answer``."""

    def __init__(self, answer: FullResponse) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


def gateway(settings: Settings, catalog: Catalog, store: ObjectStore, engine: EngineClient) -> FastAPI:
    """The HTTP application: ``/v1`` in OpenAI's protocol, ``/api/v1``, ``/healthz`` and ``/metrics``.

    The base model's name comes before a tenant's instance of the same name.
    """
    serve = settings.serve
    metrics, traffic, revoked = GatewayMetrics(), TrafficStats(), RevocationWatcher(catalog)
    foresight = AdapterPrefetcher(catalog, engine, pinned=serve.pinned)
    quota = Quota(requests_per_minute=serve.requests_per_minute, tokens_per_minute=serve.tokens_per_minute)
    limits = TenantRateLimiter(quota, serve.max_concurrent_requests or LINE * serve.max_num_seqs * serve.max_engines)

    @asynccontextmanager
    async def watching(_: FastAPI) -> AsyncIterator[None]:
        async with revoked.watched(), foresight.watching():
            yield

    async def prefetch(version: Version) -> None:
        with anyio.move_on_after(BRING_S):
            await engine.prefetch(version.digest, version.rank, 0.0)

    def bring(version: Version) -> None:
        """Called in a worker thread of the application, before a channel is pointed to the version."""
        anyio.from_thread.run(prefetch, version)

    app = FastAPI(title="Looper", summary="Control plane: instances, consolidations, skills", lifespan=watching)
    answer_errors(app)
    app.include_router(control_plane(settings, catalog, store, bring))
    openai = _openai(settings.base, catalog, engine, limits, metrics, traffic, revoked, foresight)
    app.mount("/v1", MetricsMiddleware(openai, metrics))

    @app.get("/api/v1/skills/{instance}/traffic", summary="The versions of a skill with a canary, side by side")
    def show_traffic(request: Request, instance: str) -> dict[str, VersionTraffic]:
        return traffic.of(str(InstanceName(tenant_of(request, catalog), check_name(instance, "instance"))))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def tenant_of(request: Request, catalog: Catalog) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return authenticate(catalog, key.strip() if scheme.lower() == "bearer" else None)


def _openai(
    base: str,
    catalog: Catalog,
    engine: EngineClient,
    limits: TenantRateLimiter,
    metrics: GatewayMetrics,
    traffic: TrafficStats,
    revoked: RevocationWatcher,
    foresight: AdapterPrefetcher,
) -> FastAPI:
    # An application of its own, so that even a wrong path is answered in OpenAI's form.
    app = FastAPI(openapi_url=None)
    answer_errors(app)
    app.add_exception_handler(RequestRefused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http_exception)
    split = TrafficSplitter()

    async def admitted(request: Request) -> AsyncIterator[str]:
        """The tenant, within its limits until its answer has ended."""
        request.state.seen.tenant = tenant = await run_in_threadpool(tenant_of, request, catalog)
        with limits.place(tenant) as request.state.bill:
            limits.admit(tenant, await run_in_threadpool(catalog.quota, tenant), time.monotonic())
            yield tenant

    def targets(tenant: str, model: str) -> list[Target]:
        """The versions that may answer ``model`` to ``tenant``; none for the base model."""
        if model == base:
            return []
        try:
            name = ModelName.parse(model)
            if name.instance.tenant != tenant:
                raise NotFound(f"model {model} belongs to another tenant")
            return catalog.targets(name)
        except (InvalidInput, NotFound) as missing:
            # One answer, whatever the reason: a name tells nothing about other tenants.
            raise RequestRefused(_no_such_model(model)) from missing

    async def answer(call: Endpoint, request: Request, tenant: str) -> Response:
        seen: Seen = request.state.seen
        bill: Bill = request.state.bill
        content = await _read(request)
        body = _parse(content)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise RequestRefused(error(400, "the request names no model: set model to tenant/instance", param="model"))
        seen.model = model[:256]
        versions = await run_in_threadpool(targets, tenant, model)
        target = split.pick(model, versions) if versions else None
        if target:
            foresight.asked(target)
        digest, channel = (target.digest, target.channel or "version") if target else (None, "base")
        seen.version, seen.channel = digest, channel
        rank = target.rank if target else 0
        for_engine = body | {"model": digest or base, "request_id": seen.id}
        ask = EngineRequest(call, for_engine, digest, rank, _opaque(tenant), _within_s(request), seen.trace)
        tally = traffic.tally(model, digest) if digest and len(versions) > 1 else None
        label = channel if channel in CHANNELS else "other"
        bill.expected = len(content) // BYTES_PER_TOKEN
        watch = RequestRecorder(metrics, seen, label, tally, bill.reach)
        relay = ResponseStream(engine.answer(ask), model, digest, watch, revoked)
        try:
            first = await relay.first()
        except EngineUnavailable as gone:
            raise RequestRefused(error(503, str(gone), code="engine_gone", retry_after_s=1)) from gone
        except Exception as failure:
            log.exception("the engine failed on a request for %s", digest or model)
            raise RequestRefused(error(500, "the engine failed on this request", code="engine_failed")) from failure
        headers = {VERSION_HEADER: digest} if digest else {}
        if relay.opening and relay.opening.tier:
            headers[ADAPTER_HEADER] = relay.opening.tier
        if isinstance(first, FullResponse):
            return _respond(first, headers)
        return StreamingResponse(relay.events(first), headers=headers, media_type="text/event-stream")

    @app.post("/chat/completions")
    async def chat(request: Request, tenant: Annotated[str, Depends(admitted)]) -> Response:
        return await answer("chat", request, tenant)

    @app.post("/completions")
    async def completions(request: Request, tenant: Annotated[str, Depends(admitted)]) -> Response:
        return await answer("completions", request, tenant)

    @app.get("/models")
    def models(
        request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, after: str | None = None
    ) -> dict[str, Any]:
        """The base model, then the tenant's skills by name: at most ``limit`` of those ``after`` the one of that id."""
        tenant = tenant_of(request, catalog)
        last = _instance_after(tenant, after) if after and after != base else None
        names = [base] if after is None else []
        names += map(str, catalog.skill_names(tenant, after=last, limit=limit + 1 - len(names)))
        page = names[:limit]
        return {
            "object": "list",
            "data": [_model(name) for name in page],
            "first_id": next(iter(page), None),
            "last_id": next(reversed(page), None),
            "has_more": len(names) > limit,
        }

    @app.get("/models/{model:path}")
    def model(request: Request, model: str) -> dict[str, Any]:
        targets(tenant_of(request, catalog), model)
        return _model(model)

    return app


def _instance_after(tenant: str, after: str) -> str:
    try:
        name = InstanceName.parse(after)
        if name.tenant == tenant:
            return name.instance
    except InvalidInput:
        pass
    raise RequestRefused(error(400, f"after is {after[:256]!r}: give an id of this list", param="after"))


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RequestRefused(
                error(413, f"the request is larger than {MAX_BODY // 2**20} MiB", code="request_too_large")
            )
    return bytes(body)


def _parse(content: bytes) -> Body:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as reason:
        raise RequestRefused(error(400, f"the request is not JSON: {reason}", code="invalid_json")) from reason
    if not isinstance(body, dict):
        raise RequestRefused(error(400, "the request is not a JSON object", code="invalid_json"))
    return body


def _opaque(tenant: str) -> str:
    """The same for the same tenant, and no name."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]


def _within_s(request: Request) -> float | None:
    given = request.headers.get(WITHIN_HEADER)
    if given is None:
        return None
    try:
        within_s = float(given)
    except ValueError:
        within_s = 0
    if not 0 < within_s < inf:
        message = f"{WITHIN_HEADER} is {given[:64]!r}: give a number of seconds above 0"
        raise RequestRefused(error(400, message, param=WITHIN_HEADER))
    return within_s


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "looper"}


def _no_such_model(model: str) -> FullResponse:
    message = f"The model `{model[:256]}` does not exist or you do not have access to it."
    return error(404, message, code="model_not_found")


def _respond(answer: FullResponse, headers: Mapping[str, str] | None = None) -> Response:
    again = {} if answer.retry_after_s is None else {"retry-after": str(max(1, ceil(answer.retry_after_s)))}
    return Response(answer.body, answer.status, {**(headers or {}), **again}, media_type="application/json")


async def _on_refused(_: Request, raised: Exception) -> Response:
    assert isinstance(raised, RequestRefused)
    return _respond(raised.answer)


async def _on_http_exception(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    return _respond(error(raised.status_code, f"{request.method} {request.url.path}: {raised.detail}"))
