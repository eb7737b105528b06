import pytest

from looper.benchmarks.capacity.load.clients import Answered
from looper.benchmarks.capacity.load.figures import sum_up
from looper.benchmarks.capacity.load.workload import WorkloadRequest


def answered(at_s: float, *tokens_s: float, whole: bool = True) -> Answered:
    asked = WorkloadRequest(at_s=at_s, adapter=0, prompt=1, answer=len(tokens_s))
    return Answered(asked, list(tokens_s), tokens_s[-1] if whole and tokens_s else None)


def test_a_load_in_figures() -> None:
    figures = sum_up([answered(0, 1, 2, 4), answered(1, 7, 8), answered(2, 3, whole=False), answered(3, whole=False)])
    assert (figures.requests, figures.failed) == (4, 2)
    assert figures.requests_per_s == pytest.approx(2 / 8)
    assert figures.tokens_per_s == pytest.approx(6 / 8, abs=0.05)
    assert figures.first_s is not None
    assert figures.first_s.p50 == 1
    assert figures.between_s is not None
    assert figures.between_s.p50 == 1
    assert figures.slo == 0.5, "one began too late, one never"


def test_nothing_but_failures() -> None:
    figures = sum_up([answered(0, whole=False)])
    assert (figures.failed, figures.requests_per_s, figures.first_s, figures.slo) == (1, 0, None, 0)
