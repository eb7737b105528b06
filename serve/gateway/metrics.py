"""The gateway's Prometheus metrics, and the middleware that counts and logs requests.

To add a metric:

1. Create it in ``GatewayMetrics.__init__`` with ``registry=self.registry``. Use base units (seconds, bytes) and only
   labels with few values; a tenant or a model is not one.
2. Observe it where the event happens: ``request_recorder.py`` for responses and tokens, ``MetricsMiddleware`` below for
   whole requests.
3. Add it to the table in ``docs/serving.md`` and to the dashboard ``cluster/grafana/serving.json``; tests compare both
   with this class. ``docs/guides/add-a-metric.md`` has an example.
"""

import asyncio
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from looper.platform.api.request_boundary import request_id_of
from looper.serve.gateway.request_log import RequestRecord
from looper.serve.tracing import span

_TRACE_HEADERS = (b"traceparent", b"tracestate")

ENDPOINTS = ("/chat/completions", "/completions", "/models")
"""Values of the label ``endpoint``; all other paths are "other"."""

CHANNELS = ("base", "version", "prod", "canary")
"""Values of the label ``channel``; a tenant's other channels are "other"."""


class GatewayMetrics:
    """The metrics of one gateway. To add one, see the module's docstring.

    Attributes:
        registry: Registry of these metrics alone, so that two gateways in one process do not share counts.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "looper_requests", "Requests on /v1 by outcome", ("endpoint", "outcome"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "looper_request_seconds",
            "Time from the arrival of a request to the last byte of its response",
            ("endpoint",),
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
        )
        # Label channel: "base" is a request without an adapter, "version" one that named a digest.
        self.first_token_s = Histogram(
            "looper_first_token_seconds",
            "Time from the arrival of a streamed request to its first token",
            ("channel",),
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.between_tokens_s = Histogram(
            "looper_between_tokens_seconds",
            "Time between two events of a streamed response",
            ("channel",),
            registry=self.registry,
            buckets=(0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 2, 5),
        )
        self.adapter_lookups = Counter(
            "looper_adapters_asked",
            "Requests for an adapter by the tier in which it was found",
            ("tier",),
            registry=self.registry,
        )
        self.adapter_load_s = Histogram(
            "looper_adapter_load_seconds",
            "Time to load an adapter that was not in the engine's memory",
            ("tier",),
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )
        self.adapters_evicted = Counter(
            "looper_adapters_evicted", "Adapters evicted to make room for others", ("tier",), registry=self.registry
        )
        self.queue_wait_s = Histogram(
            "looper_queue_seconds",
            "Time in the admission queue after the adapter was loaded",
            registry=self.registry,
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        )
        self.slot_usage = Histogram(
            "looper_slots_taken",
            "Share of an engine's adapter slots in use when a request is admitted",
            registry=self.registry,
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        )
        self.tokens = Counter(
            "looper_tokens", "Tokens that were read or generated", ("channel", "kind"), registry=self.registry
        )


class MetricsMiddleware:
    """Counts, traces and logs the requests of an application.

    The application finds a ``RequestRecord`` to fill in as ``request.state.record``. A streamed response lasts until
    its last event.

    Args:
        app: The application.
        metrics: Metrics to update.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, as ASGI defines it.

        Args:
            scope: What is known about the connection.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(id=request_id_of(scope), method=scope["method"], path=scope["path"][:256])
        scope["state"]["record"] = record
        # Only known paths become labels: labels made from what clients send would never stop growing.
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        endpoint = next((known for known in ENDPOINTS if path.startswith(known)), "other")

        async def send_and_observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = status = message["status"]
                record.outcome = "failed" if status >= 500 else "refused" if status >= 400 else "ok"
            await send(message)

        with span(f"{record.method} {endpoint}", _trace_context(scope)) as (request_span, record.trace_context):
            try:
                await self._app(scope, receive, send_and_observe)
            except Exception as error:
                record.outcome = "cancelled" if isinstance(error, ClientDisconnect) else "failed"
                raise
            except asyncio.CancelledError:
                record.outcome = "cancelled"
                raise
            finally:
                self._metrics.requests.labels(endpoint, record.outcome).inc()
                self._metrics.request_seconds.labels(endpoint).observe(time.perf_counter() - record.started_at)
                record.log()
                request_span.set_attributes({f"looper.{name}": value for name, value in record.to_fields().items()})


def _trace_context(scope: Scope) -> dict[str, str]:
    """Return the W3C trace context headers that the client sent."""
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE_HEADERS}
