"""The gateway's request log: one line of JSON per request, with the id that its response has in ``x-request-id``.

``metrics.MetricsMiddleware`` creates a record for each request, the handlers fill it in, and the middleware logs it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog


@dataclass
class RequestRecord:
    """What is known about a request. The field names are the keys of the log line, except for the last two."""

    id: str
    """Id of the request, which its response has in ``x-request-id``."""
    method: str = ""
    """HTTP method."""
    path: str = ""
    """Path of the URL, shortened."""
    status: int | None = None
    """HTTP status, None until the response starts."""
    outcome: str = "failed"
    """ok, refused (4xx), failed (5xx or an exception) or cancelled (the client went away)."""
    tenant: str | None = None
    """Tenant of the API key."""
    model: str | None = None
    """Model name that the client sent, shortened."""
    version: str | None = None
    """Digest of the version that responds, None for the base model."""
    channel: str | None = None
    """Channel that the version was resolved through, "version" for a digest, "base" for the base model."""
    adapter_from: str | None = None
    """Tier in which the adapter was found."""
    load_s: float | None = None
    """Time to load the adapter, in seconds."""
    queue_s: float | None = None
    """Time in the admission queue, in seconds."""
    tokens_read: int | None = None
    """Prompt tokens."""
    tokens_generated: int | None = None
    """Generated tokens."""
    started_at: float = field(default_factory=time.perf_counter)
    """When the request arrived, in seconds of ``time.perf_counter``."""
    trace_context: Mapping[str, str] = field(default_factory=dict)
    """The span of the request, as W3C trace context headers."""

    def log(self) -> None:
        """Write the log line."""
        structlog.get_logger("looper.request").info("request", **self.to_fields())

    def to_fields(self) -> dict[str, Any]:
        """Return the known fields of the log line.

        Returns:
            Fields by name, with ``seconds`` since the request arrived, and without those that are None.
        """
        fields = asdict(self) | {"seconds": time.perf_counter() - self.started_at}
        del fields["started_at"], fields["trace_context"]
        return {name: _round(value) for name, value in fields.items() if value is not None}


def configure_json_logging() -> None:
    """Make structlog write JSON to standard output, where Ray collects it. Called once per process."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()]
    )


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
