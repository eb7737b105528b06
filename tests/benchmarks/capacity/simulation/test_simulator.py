"""The simulator on cases worked out by hand, and calibrated on itself."""

from collections.abc import Sequence

import pytest

from looper.benchmarks.capacity.load.clients import Answered
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.simulation.calibrate import calibrate
from looper.benchmarks.capacity.simulation.simulator import Cluster, Costs, simulate

COSTS = Costs(step=0.1, sequence=0.01, prompt_token=0.001, adapter=0.02, request=0.04, load=0.5, reload=0.25)
ONE = Cluster(seats=4, slots=2, in_memory=4, on_disk=100, step_tokens=64, line=1000)


def asked(at_s: float, adapter: int | None, prompt: int = 10, answer: int = 2) -> WorkloadRequest:
    return WorkloadRequest(at_s=at_s, adapter=adapter, prompt=prompt, answer=answer)


def run(each: Sequence[WorkloadRequest], cluster: Cluster = ONE, within_s: float = 1000) -> list[Answered]:
    return simulate(each, cluster, COSTS, within_s=within_s)


def test_one_request_for_the_base_model() -> None:
    (answer,) = run([asked(1.0, None)])
    # Half of the way there, a step that reads ten tokens, half of the way back; then a step for one sequence.
    assert answer.tokens_s == pytest.approx([1.0 + 0.02 + 0.11 + 0.02, 1.15 + 0.11])
    assert answer.done_s == answer.tokens_s[-1]


def test_an_adapter_is_brought_once_and_costs_a_little_in_each_step() -> None:
    cold, warm = run([asked(0, 7, answer=1), asked(10, 7, answer=1)])
    assert cold.first_s == pytest.approx(0.5 + 0.04 + 0.11 + 0.02)
    assert warm.first_s == pytest.approx(0.04 + 0.11 + 0.02)


def test_what_made_room_in_memory_is_still_on_the_disk() -> None:
    answers = run([asked(10 * number, number % 5, answer=1) for number in range(6)])
    assert answers[5].first_s == pytest.approx(0.25 + 0.04 + 0.11 + 0.02)


def test_a_third_adapter_waits_for_a_slot_and_a_fifth_request_for_a_seat() -> None:
    both = [asked(0, number, answer=20) for number in (0, 1, 2)]
    first, second, third = run(
        [asked(0, 0), asked(0, 1), *[asked(20 + each.at_s, each.adapter, answer=20) for each in both]]
    )[2:]
    assert third.tokens_s[0] > max(first.tokens_s[-1], second.tokens_s[-1]) - 0.04
    answers = run([asked(0, None, answer=10) for _ in range(5)])
    assert answers[4].tokens_s[0] > answers[0].tokens_s[-1]


def test_known_adapters_are_on_the_disk_and_the_last_of_them_in_memory() -> None:
    on_disk, in_memory = simulate(
        [asked(0, 0, answer=1), asked(10, 9, answer=1)], ONE, COSTS, within_s=100, known=range(10)
    )
    assert on_disk.first_s == pytest.approx(0.25 + 0.04 + 0.11 + 0.02)
    assert in_memory.first_s == pytest.approx(0.04 + 0.11 + 0.02)


def test_who_waits_for_an_adapter_that_is_in_the_batch_goes_before_who_has_waited_a_little_longer() -> None:
    two_seats = ONE.model_copy(update={"seats": 2})
    load = [asked(0, 1, answer=30), asked(0.01, 1, answer=10), asked(0.02, 2), asked(0.05, 1)]
    *_, other, same = run(load, two_seats)
    assert same.tokens_s[0] < other.tokens_s[0]


def test_a_long_prompt_is_read_in_several_steps() -> None:
    (alone,) = run([asked(0, None, prompt=100, answer=1)])
    assert alone.first_s == pytest.approx(0.02 + 0.1 + 0.064 + 0.1 + 0.036 + 0.02)
    short, long = run([asked(0, None, prompt=30), asked(0, None, prompt=40)])
    # The second step generates one token, and reads the six that the first had no room for.
    assert short.tokens_s == pytest.approx([0.04 + 0.164, 0.04 + 0.164 + 0.116])
    assert long.tokens_s[0] == short.tokens_s[1]


def test_beyond_its_line_a_tenant_is_refused() -> None:
    answers = run([asked(0, None) for _ in range(5)], ONE.model_copy(update={"line": 3}))
    assert [answer.failure for answer in answers] == [None] * 3 + ["refused"] * 2


def test_whoever_has_no_answer_in_time_has_none() -> None:
    (answer,) = run([asked(0, None, answer=100)], within_s=1)
    assert 0 < len(answer.tokens_s) < 100
    assert answer.done_s is None


def test_two_engines_answer_twice_as_much() -> None:
    load = [asked(0, None, answer=20) for _ in range(40)]
    one, two = (max(a.done_s or 0 for a in run(load, ONE.model_copy(update={"replicas": n}))) for n in (1, 2))
    assert one / two == pytest.approx(2, rel=0.05)


def test_calibrated_on_itself_it_finds_its_costs() -> None:
    cluster = Cluster(seats=16, slots=8, in_memory=16, on_disk=100, step_tokens=64, line=1000)
    since: list[WorkloadRequest] = []

    def ask(each: Sequence[WorkloadRequest]) -> list[Answered]:
        # The simulator begins with nothing in memory: all that was asked before is asked again.
        shift = 1000.0 * (len(since) and 1 + max(a.at_s for a in since) // 1000)
        since.extend(a.model_copy(update={"at_s": a.at_s + shift}) for a in each)
        answers = simulate(since, cluster, COSTS, within_s=1e9)[-len(each) :]
        for answer in answers:
            answer.asked = answer.asked.model_copy(update={"at_s": answer.asked.at_s - shift})
            answer.tokens_s = [at - shift for at in answer.tokens_s]
        return answers

    found = calibrate(ask, cluster, cold_from=1000)
    for name, value in COSTS.model_dump().items():
        assert getattr(found, name) == pytest.approx(value, rel=0.02), name
