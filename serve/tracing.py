"""OpenTelemetry traces from the gateway to the engine. Used by the gateway and by the skill server.

Spans are exported by OTLP over HTTP to the address in ``OTEL_EXPORTER_OTLP_ENDPOINT``. Without that variable there are
no traces, and a span costs nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, Status, StatusCode

_TRACER = trace.get_tracer("looper")


def configure_tracing(service: str) -> None:
    """Export the spans of this process. Called once per process.

    Args:
        service: Service name of the exported spans.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(
    name: str, parent: Mapping[str, str], **attributes: str | int | float | None
) -> Iterator[tuple[Span, dict[str, str]]]:
    """Record a span while the context is open.

    The span never becomes OpenTelemetry's current span: it is used in generators, and a generator that yields would
    pass its current span on to the code that runs next.

    Args:
        name: Name of the span.
        parent: Parent span, as W3C trace context headers. Empty: the span starts a new trace.
        **attributes: Attributes, which get the prefix ``looper.``; those that are None are left out.

    Yields:
        The span, and its W3C trace context headers for spans below it.
    """
    prefixed = {f"looper.{key}": value for key, value in attributes.items() if value is not None}
    current = _TRACER.start_span(name, context=extract(parent), attributes=prefixed)
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(current))
    try:
        yield current, carrier
    except Exception as error:
        current.record_exception(error)
        current.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        current.end()
