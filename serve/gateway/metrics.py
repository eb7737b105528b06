"""What the gateway counts, in Prometheus's form and base units."""

import asyncio
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.serve.gateway.request_log import HEADER, RequestRecord
from looper.serve.tracing import span

_TRACE_HEADERS = (b"traceparent", b"tracestate")

ENDPOINTS = ("/chat/completions", "/completions", "/models")


class GatewayMetrics:
    """The gateway's own registry: two gateways in one process do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "looper_requests", "Requests on /v1 by outcome", ("endpoint", "outcome"), registry=self.registry
        )
        self.seconds = Histogram(
            "looper_request_seconds",
            "Time from a request's head to the last byte of its answer",
            ("endpoint",),
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
        )
        # Of each channel: "base" without an adapter, "version" where one was asked for by its digest.
        self.first_token_s = Histogram(
            "looper_first_token_seconds",
            "Time from a streamed request's head to its first token",
            ("channel",),
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.between_tokens_s = Histogram(
            "looper_between_tokens_seconds",
            "Time between two events of a streamed answer",
            ("channel",),
            registry=self.registry,
            buckets=(0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 2, 5),
        )
        self.adapters = Counter(
            "looper_adapters_asked",
            "Requests for adapters by where theirs was found",
            ("tier",),
            registry=self.registry,
        )
        self.load_s = Histogram(
            "looper_adapter_load_seconds",
            "Time to bring an adapter that was not in the engine's memory",
            ("tier",),
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.evicted = Counter(
            "looper_adapters_evicted", "Adapters that made room for others", ("tier",), registry=self.registry
        )
        self.waited_s = Histogram(
            "looper_queue_seconds",
            "Time in line before an engine, once the adapter is there",
            registry=self.registry,
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.slots_taken = Histogram(
            "looper_slots_taken",
            "Share of an engine's adapter slots that is in use when a request's turn comes",
            registry=self.registry,
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        )
        self.tokens = Counter(
            "looper_tokens", "Tokens by what was done with them", ("channel", "kind"), registry=self.registry
        )


class MetricsMiddleware:
    """Counts and logs the requests of ``app``, which finds a ``RequestRecord`` to fill in its scope's state.

    A streamed answer lasts until its last event.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = RequestRecord(method=scope["method"], path=scope["path"][:256])
        scope.setdefault("state", {})["seen"] = seen
        # Known paths only: a label made from what clients send would never stop growing.
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        endpoint = next((known for known in ENDPOINTS if path.startswith(known)), "other")

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = status = message["status"]
                seen.outcome = "failed" if status >= 500 else "refused" if status >= 400 else "ok"
                message = {**message, "headers": [*message["headers"], (HEADER.encode(), seen.id.encode())]}
            await send(message)

        with span(f"{seen.method} {endpoint}", _traced(scope)) as (ours, seen.trace):
            try:
                await self._app(scope, receive, observe)
            except Exception as error:
                seen.outcome = "cancelled" if isinstance(error, ClientDisconnect) else "failed"
                raise
            except asyncio.CancelledError:
                seen.outcome = "cancelled"
                raise
            finally:
                self._metrics.requests.labels(endpoint, seen.outcome).inc()
                self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - seen.began)
                seen.write()
                ours.set_attributes({f"looper.{name}": value for name, value in seen.known().items()})


def _traced(scope: Scope) -> dict[str, str]:
    """What the client says of the span that its request belongs to."""
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE_HEADERS}
