"""Handles chat and completion requests: resolves the model, calls the engine and passes the response on.

``openai_app`` calls it after authentication and rate limits. ``serve/requests`` refuses what is unknown or out of
bounds, and vLLM's response is passed on unchanged, except that ``model`` is again what the client sent.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from functools import partial

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from looper.platform.api.request_body import read_body
from looper.platform.domain.names import ModelName
from looper.serve.error_responses import (
    RequestRefused,
    engine_failed,
    error_response,
)
from looper.serve.fair_turns import FairTurns
from looper.serve.gateway.adapter_prefetcher import AdapterPrefetcher
from looper.serve.gateway.deadlines import RequestDeadline, parse_max_wait
from looper.serve.gateway.metrics import GatewayMetrics
from looper.serve.gateway.model_resolver import ModelResolver
from looper.serve.gateway.rate_limits import RequestCharge
from looper.serve.gateway.request_log import RequestRecord
from looper.serve.gateway.request_recorder import RequestRecorder, TrafficStats
from looper.serve.gateway.response_stream import ResponseStream
from looper.serve.gateway.revocation import RevocationWatcher
from looper.serve.gateway.traffic_split import conversation_key, pick_target
from looper.serve.protocol import (
    Endpoint,
    EngineClient,
    EngineRequest,
    EngineUnavailable,
    FullResponse,
    estimate_prompt_tokens,
)
from looper.serve.requests.checks import RequestLimits, largest
from looper.serve.requests.fields import MAX_BODY_BYTES
from looper.serve.requests.parser import check_limits, parse_request

VERSION_HEADER = "x-looper-version"
"""Response header with the digest of the version that responded. The base model's responses do not have it."""

ADAPTER_HEADER = "x-looper-adapter"
"""Response header with the tier in which the adapter was found: "memory", "disk" or "store"."""

ENCODING_HEADER = "content-encoding"
"""Request header with the compression of the body. There must be none."""

MAX_WAITING_TO_PARSE = 256
"""Maximum number of one tenant's requests that wait for being parsed. Parsing takes milliseconds of the event loop."""

log = logging.getLogger(__name__)


class CompletionHandler:
    """Handles the requests of both completion endpoints.

    Args:
        resolver: Resolves model names.
        engine: Engines that generate the responses.
        metrics: Metrics to update.
        traffic: Statistics of the versions of skills with a canary.
        revoked: Knows which versions and keys are revoked, at any time.
        prefetcher: Is told which versions are requested.
        limits: What the engines of each base model can run.
        timeout_s: Maximum time from the arrival of a request to the last byte of its response, in seconds.
    """

    def __init__(
        self,
        resolver: ModelResolver,
        engine: EngineClient,
        *,
        metrics: GatewayMetrics,
        traffic: TrafficStats,
        revoked: RevocationWatcher,
        prefetcher: AdapterPrefetcher,
        limits: Mapping[str, RequestLimits],
        timeout_s: float,
    ) -> None:
        self._resolver = resolver
        self._engine = engine
        self._metrics = metrics
        self._traffic = traffic
        self._revoked = revoked
        self._prefetcher = prefetcher
        self._limits = limits
        self._largest = largest(limits.values())
        self._timeout_s = timeout_s
        self._parsing = FairTurns("the gateway to read them", concurrent=1, max_waiting=MAX_WAITING_TO_PARSE)

    async def handle(
        self, endpoint: Endpoint, request: Request, tenant: str, record: RequestRecord, charge: RequestCharge
    ) -> Response:
        """Handle one request.

        Args:
            endpoint: Endpoint of the request.
            request: The request. Its body has not been read.
            tenant: Tenant of the API key.
            record: The request's line in the log, to fill in.
            charge: Charge of the request's tokens.

        Returns:
            The response, streamed if the client asked for a stream.

        Raises:
            RequestRefused: The request is wrong or took too long, or the engine failed before the response started.
            RateLimited: The tenant's limits do not allow so many sequences.
            Overloaded: Too many of the tenant's requests wait for being parsed.
        TooLarge: The body has more than ``MAX_BODY_BYTES``.
        """
        _check_encoding(request)
        deadline = RequestDeadline(record.started_at, parse_max_wait(request), self._timeout_s)
        async with deadline.enforced():
            return await self._handle(endpoint, request, tenant, record, charge, deadline)

    async def _handle(
        self,
        endpoint: Endpoint,
        request: Request,
        tenant: str,
        record: RequestRecord,
        charge: RequestCharge,
        deadline: RequestDeadline,
    ) -> Response:
        content = await read_body(request, MAX_BODY_BYTES, f"the request is larger than {MAX_BODY_BYTES // 2**20} MiB")
        async with self._parsing.turn(tenant):
            parsed = parse_request(endpoint, content, self._largest)
            await asyncio.sleep(0)  # others that are ready go first, before the next request is parsed
        model = parsed.model
        record.model = model[:256]
        await charge.add_sequences(parsed.num_seqs, time.monotonic())
        targets = await run_in_threadpool(self._resolver.resolve, tenant, model)
        instance = ModelName.parse(model).instance if targets else None
        target = pick_target(instance, conversation_key(parsed.user, parsed.body), targets) if instance else None
        base = target.base if target else model
        if (limits := self._limits.get(base, self._largest)) != self._largest:
            check_limits(parsed.body, limits)
        if target:
            self._prefetcher.record_request(target)
        digest, channel = (target.digest, target.channel or "version") if target else (None, "base")
        record.version, record.channel = digest, channel
        charge.estimated_tokens = estimate_prompt_tokens(len(content))
        engine_request = EngineRequest(
            endpoint=endpoint,
            body=parsed.body | {"model": digest or base, "request_id": record.id},
            digest=digest,
            base=base,
            rank=target.rank if target else 0,
            tenant_hash=_hash_tenant(tenant),
            num_seqs=parsed.num_seqs,
            estimated_prompt_tokens=charge.estimated_tokens,
            max_wait_s=deadline.remaining_wait_s,
            trace_context=record.trace_context,
        )
        stats = self._traffic.stats_of(instance, digest) if instance and digest and len(targets) > 1 else None
        recorder = RequestRecorder(self._metrics, record, channel, stats, charge.update)
        check = partial(self._revoked.find_reason_to_stop, digest, request.state.key.id)
        await request.state.end_turn()
        stream = ResponseStream(self._engine.generate(engine_request), model, digest, recorder, check, deadline)
        return await _respond(stream, model, digest)


async def _respond(stream: ResponseStream, model: str, digest: str | None) -> Response:
    try:
        first = await stream.read_first()
    except EngineUnavailable as error:
        raise RequestRefused(error.response) from error
    except Exception as error:
        log.exception("the engine failed on a request for %s", digest or model)
        raise RequestRefused(engine_failed()) from error
    headers = {VERSION_HEADER: digest} if digest else {}
    if stream.admission and stream.admission.tier:
        headers[ADAPTER_HEADER] = stream.admission.tier
    if isinstance(first, FullResponse):
        return to_http_response(first, headers)
    return StreamingResponse(stream.stream_events(first), headers=headers, media_type="text/event-stream")


def to_http_response(response: FullResponse, headers: dict[str, str] | None = None) -> Response:
    """Convert a full response to FastAPI's.

    Args:
        response: The response.
        headers: Headers to add.

    Returns:
        A JSON response.
    """
    all_headers = {**(headers or {}), **response.headers}
    return Response(response.body, response.status, all_headers, media_type="application/json")


def _check_encoding(request: Request) -> None:
    """Refuse a compressed body: a small one may be huge when it is unpacked."""
    encoding = request.headers.get(ENCODING_HEADER, "identity")
    if encoding.strip().lower() not in ("identity", ""):
        message = f"{ENCODING_HEADER} is {encoding[:64]!r}: send the body as plain JSON, not compressed"
        raise RequestRefused(error_response(415, message, param=ENCODING_HEADER))


def _hash_tenant(tenant: str) -> str:
    """Return an id of the tenant that does not reveal its name to the engine."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]
