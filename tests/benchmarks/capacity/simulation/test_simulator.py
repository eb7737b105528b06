"""The simulator agrees with cases computed by hand, and calibration on the simulator finds its costs."""

from collections.abc import Sequence

import pytest

from looper.benchmarks.capacity.load.clients import RequestResult
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.simulation.calibrate import calibrate
from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts, simulate

COSTS = EngineCosts(step=0.1, sequence=0.01, prompt_token=0.001, adapter=0.02, request=0.04, load=0.5, reload=0.25)
ONE_ENGINE = Cluster(seats=4, slots=2, in_memory=4, on_disk=100, step_tokens=64, line=1000)


def request(arrival_s: float, adapter: int | None, prompt: int = 10, output: int = 2) -> WorkloadRequest:
    return WorkloadRequest(arrival_s=arrival_s, adapter=adapter, prompt_tokens=prompt, output_tokens=output)


def run(
    requests: Sequence[WorkloadRequest], cluster: Cluster = ONE_ENGINE, timeout_s: float = 1000
) -> list[RequestResult]:
    return simulate(requests, cluster, COSTS, timeout_s=timeout_s)


def test_one_request_for_the_base_model() -> None:
    (answer,) = run([request(1.0, None)])
    # Half of the request cost, a step that reads ten tokens, the other half; then a step for one sequence.
    assert answer.token_times_s == pytest.approx([1.0 + 0.02 + 0.11 + 0.02, 1.15 + 0.11])
    assert answer.finished_s == answer.token_times_s[-1]


def test_an_adapter_is_loaded_once_and_adds_to_each_step() -> None:
    cold, warm = run([request(0, 7, output=1), request(10, 7, output=1)])
    assert cold.ttft_s == pytest.approx(0.5 + 0.04 + 0.11 + 0.02)
    assert warm.ttft_s == pytest.approx(0.04 + 0.11 + 0.02)


def test_an_adapter_evicted_from_memory_is_reloaded_from_disk() -> None:
    answers = run([request(10 * number, number % 5, output=1) for number in range(6)])
    assert answers[5].ttft_s == pytest.approx(0.25 + 0.04 + 0.11 + 0.02)


def test_requests_wait_for_a_free_slot_and_for_a_free_sequence() -> None:
    long_requests = [request(0, number, output=20) for number in (0, 1, 2)]
    first, second, third = run(
        [request(0, 0), request(0, 1), *[request(20 + one.arrival_s, one.adapter, output=20) for one in long_requests]]
    )[2:]
    assert third.token_times_s[0] > max(first.token_times_s[-1], second.token_times_s[-1]) - 0.04
    answers = run([request(0, None, output=10) for _ in range(5)])
    assert answers[4].token_times_s[0] > answers[0].token_times_s[-1]


def test_prewarmed_adapters_are_on_disk_and_the_last_ones_in_memory() -> None:
    on_disk, in_memory = simulate(
        [request(0, 0, output=1), request(10, 9, output=1)], ONE_ENGINE, COSTS, timeout_s=100, prewarmed=range(10)
    )
    assert on_disk.ttft_s == pytest.approx(0.25 + 0.04 + 0.11 + 0.02)
    assert in_memory.ttft_s == pytest.approx(0.04 + 0.11 + 0.02)


def test_a_request_for_an_active_adapter_passes_one_that_waited_slightly_longer() -> None:
    two_sequences = ONE_ENGINE.model_copy(update={"seats": 2})
    load = [request(0, 1, output=30), request(0.01, 1, output=10), request(0.02, 2), request(0.05, 1)]
    *_, other, same = run(load, two_sequences)
    assert same.token_times_s[0] < other.token_times_s[0]


def test_a_long_prompt_takes_several_steps() -> None:
    (alone,) = run([request(0, None, prompt=100, output=1)])
    assert alone.ttft_s == pytest.approx(0.02 + 0.1 + 0.064 + 0.1 + 0.036 + 0.02)
    short, long = run([request(0, None, prompt=30), request(0, None, prompt=40)])
    # The second step generates one token, and reads the six that the first had no room for.
    assert short.token_times_s == pytest.approx([0.04 + 0.164, 0.04 + 0.164 + 0.116])
    assert long.token_times_s[0] == short.token_times_s[1]


def test_requests_beyond_the_limit_are_rejected() -> None:
    answers = run([request(0, None) for _ in range(5)], ONE_ENGINE.model_copy(update={"line": 3}))
    assert [answer.error for answer in answers] == [None] * 3 + ["rejected"] * 2


def test_an_answer_that_is_not_complete_in_time_stays_incomplete() -> None:
    (answer,) = run([request(0, None, output=100)], timeout_s=1)
    assert 0 < len(answer.token_times_s) < 100
    assert answer.finished_s is None


def test_two_engines_answer_twice_as_fast() -> None:
    load = [request(0, None, output=20) for _ in range(40)]
    one, two = (
        max(a.finished_s or 0 for a in run(load, ONE_ENGINE.model_copy(update={"replicas": n}))) for n in (1, 2)
    )
    assert one / two == pytest.approx(2, rel=0.05)


def test_calibration_on_the_simulator_finds_its_costs() -> None:
    cluster = Cluster(seats=16, slots=8, in_memory=16, on_disk=100, step_tokens=64, line=1000)
    history: list[WorkloadRequest] = []

    def send(requests: Sequence[WorkloadRequest]) -> list[RequestResult]:
        # The simulator starts with an empty memory, so all earlier requests are repeated.
        shift = 1000.0 * (len(history) and 1 + max(one.arrival_s for one in history) // 1000)
        history.extend(one.model_copy(update={"arrival_s": one.arrival_s + shift}) for one in requests)
        results = simulate(history, cluster, COSTS, timeout_s=1e9)[-len(requests) :]
        for result in results:
            result.request = result.request.model_copy(update={"arrival_s": result.request.arrival_s - shift})
            result.token_times_s = [at - shift for at in result.token_times_s]
        return results

    calibrated = calibrate(send, cluster, first_cold=1000)
    for name, value in COSTS.model_dump().items():
        assert getattr(calibrated, name) == pytest.approx(value, rel=0.02), name
