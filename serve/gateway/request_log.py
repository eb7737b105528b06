"""One line of JSON for each request, with the id that its answer carries in ``x-request-id``."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

HEADER = "x-request-id"


@dataclass
class RequestRecord:
    """What is known of a request when it has ended; seconds are since it came."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Ours: one that a client chose could be that of another's request."""
    method: str = ""
    path: str = ""
    status: int | None = None
    outcome: str = "failed"
    tenant: str | None = None
    model: str | None = None
    version: str | None = None
    channel: str | None = None
    adapter_from: str | None = None
    load_s: float | None = None
    queue_s: float | None = None
    tokens_read: int | None = None
    tokens_generated: int | None = None
    began: float = field(default_factory=time.perf_counter)
    trace: Mapping[str, str] = field(default_factory=dict)
    """Its span, in the form that travels."""

    def write(self) -> None:
        """Log it, without what is not known."""
        structlog.get_logger("looper.request").info("request", **self.known())

    def known(self) -> dict[str, Any]:
        fields = asdict(self) | {"seconds": time.perf_counter() - self.began}
        return {n: _short(value) for n, value in fields.items() if value is not None and n not in ("began", "trace")}


def log_as_json() -> None:
    """Once in a process: to standard output, where Ray takes it into its logs."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()]
    )


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
