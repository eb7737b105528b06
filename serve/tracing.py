"""OpenTelemetry traces, from the gateway to the engine.

Sent where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, by OTLP over HTTP; without it there are none, and they cost nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, Status, StatusCode

_TRACER = trace.get_tracer("looper")


def send_traces(service: str) -> None:
    """Once in a process, named ``service`` in what is sent."""
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
    """A span below ``parent``, both in the form that travels (W3C's ``traceparent``); and its own such form.

    It is never the current one: generators that yield would hand that to whoever runs next.
    """
    known = {f"looper.{key}": value for key, value in attributes.items() if value is not None}
    begun = _TRACER.start_span(name, context=extract(parent), attributes=known)
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(begun))
    try:
        yield begun, carrier
    except Exception as error:
        begun.record_exception(error)
        begun.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        begun.end()
