"""The metrics of a load are computed from the results of its requests."""

import pytest

from looper.benchmarks.capacity.load.clients import RequestResult
from looper.benchmarks.capacity.load.metrics import compute_metrics
from looper.benchmarks.capacity.load.workload import WorkloadRequest


def result(arrival_s: float, *token_times_s: float, is_complete: bool = True) -> RequestResult:
    request = WorkloadRequest(arrival_s=arrival_s, adapter=0, prompt_tokens=1, output_tokens=len(token_times_s))
    return RequestResult(request, list(token_times_s), token_times_s[-1] if is_complete and token_times_s else None)


def test_metrics_count_incomplete_answers_and_late_first_tokens() -> None:
    metrics = compute_metrics(
        [result(0, 1, 2, 4), result(1, 7, 8), result(2, 3, is_complete=False), result(3, is_complete=False)]
    )
    assert (metrics.requests, metrics.failed) == (4, 2)
    assert metrics.requests_per_s == pytest.approx(2 / 8)
    assert metrics.tokens_per_s == pytest.approx(6 / 8, abs=0.05)
    assert metrics.first_s is not None
    assert metrics.first_s.p50 == 1
    assert metrics.between_s is not None
    assert metrics.between_s.p50 == 1
    assert metrics.slo == 0.5, "one request started too late, and one never did"


def test_a_load_without_any_answer_has_no_percentiles() -> None:
    metrics = compute_metrics([result(0, is_complete=False)])
    assert (metrics.failed, metrics.requests_per_s, metrics.first_s, metrics.slo) == (1, 0, None, 0)
