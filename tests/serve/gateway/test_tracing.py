"""Exported spans, and the headers in which a span is passed to another process."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from looper.serve.tracing import span

CLIENT = {"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # allowed once per process; no other test sets one
    return exporter


def test_a_span_continues_the_trace_of_the_client_across_processes(exporter: InMemorySpanExporter) -> None:
    exporter.clear()
    with span("POST /chat/completions", CLIENT) as (_, carrier), span("adapter", carrier, tier="disk", rank=None):
        pass
    inner, outer = exporter.get_finished_spans()
    assert f"{outer.context.trace_id:x}" == f"{inner.context.trace_id:x}" == "ab" * 16
    assert (f"{outer.parent.span_id:x}", inner.parent.span_id) == ("cd" * 8, outer.context.span_id)
    assert inner.attributes == {"looper.tier": "disk"}


def test_a_span_that_raises_has_an_error_status(exporter: InMemorySpanExporter) -> None:
    exporter.clear()
    with pytest.raises(ValueError, match="no"), span("engine", {}):
        raise ValueError("no")
    (failed,) = exporter.get_finished_spans()
    assert (failed.status.is_ok, failed.status.description) == (False, "ValueError")
