"""What the gateway counts, in Prometheus's form and base units."""

import asyncio
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENDPOINTS = ("/chat/completions", "/completions", "/models")


class Metrics:
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


class Metered:
    """Counts the requests of ``app``. A streamed answer lasts until its last event."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, outcome = time.perf_counter(), "failed"
        # Known paths only: a label made from what clients send would never stop growing.
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        endpoint = next((known for known in ENDPOINTS if path.startswith(known)), "other")

        async def observe(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                status = message["status"]
                outcome = "failed" if status >= 500 else "refused" if status >= 400 else "ok"
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception as error:
            outcome = "cancelled" if isinstance(error, ClientDisconnect) else "failed"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._metrics.requests.labels(endpoint, outcome).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - began)
