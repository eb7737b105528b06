"""The generator of the load follows its distributions and is reproducible."""

import numpy as np
import pytest

from looper.benchmarks.capacity.load.workload import LoadSpec, generate_requests


def test_the_same_spec_gives_the_same_requests() -> None:
    load = LoadSpec(adapters=8, rate=10, seconds=20)
    assert generate_requests(load) == generate_requests(load)
    assert generate_requests(load) != generate_requests(load.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_arrivals_have_the_requested_rate_and_variation(cv: float) -> None:
    requests = generate_requests(LoadSpec(adapters=1, rate=50, seconds=400, cv=cv))
    gaps = np.diff([request.arrival_s for request in requests])
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_adapters_follow_the_power_law() -> None:
    requests = generate_requests(LoadSpec(adapters=100, rate=100, seconds=400, alpha=1))
    counts = np.bincount([request.adapter for request in requests if request.adapter is not None], minlength=100)
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.15)
    assert counts[:10].sum() / counts.sum() == pytest.approx(0.565, rel=0.05)  # H(10) / H(100)
    uniform = generate_requests(LoadSpec(adapters=4, rate=100, seconds=400, alpha=0))
    assert np.bincount([request.adapter or 0 for request in uniform]) / len(uniform) == pytest.approx(0.25, rel=0.1)


def test_lengths_cover_their_whole_range() -> None:
    requests = generate_requests(
        LoadSpec(adapters=1, rate=100, seconds=100, prompt_tokens=(4, 9), output_tokens=(1, 3))
    )
    assert {request.prompt_tokens for request in requests} == set(range(4, 10))
    assert {request.output_tokens for request in requests} == {1, 2, 3}


def test_without_adapters_all_requests_are_for_the_base_model() -> None:
    assert {request.adapter for request in generate_requests(LoadSpec(adapters=0, rate=10, seconds=10))} == {None}
