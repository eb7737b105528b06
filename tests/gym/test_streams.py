"""Streams: generated sessions that contradict each other, in which the prompt alone tells the right answer."""

from itertools import combinations, pairwise

import pytest

from looper.gym.episode import run_episode
from looper.gym.policies import expert_agent
from looper.gym.streams import MAX_SESSIONS, TASKS_PER_SESSION, build_stream
from looper.gym.workplace import Workplace, WorkplaceCall, WorkplaceTask
from looper.gym.workplaces import BILLING, DISPATCH, HELPDESK, OPS
from looper.platform.domain.errors import InvalidInput

every_count = pytest.mark.parametrize("count", [10, 50, 200])


def tasks(place: Workplace, seed: int = 0) -> list[WorkplaceTask]:
    return [place.task(task_id, seed) for task_id in place.task_ids(TASKS_PER_SESSION)]


def right_call(task: WorkplaceTask) -> WorkplaceCall:
    (step,) = task.workplace.procedure
    return step.to_call(task.facts)


def month_of(place: Workplace) -> str:
    """How the first task of a session tells its month."""
    told = str(tasks(place)[0].messages())
    return "date" if f"{place.since}-" in told else "name"


@every_count
def test_the_prompt_determines_the_right_call(count: int) -> None:
    answers: dict[str, WorkplaceCall] = {}
    for place in build_stream(DISPATCH, count, 0):
        for task in (*tasks(place, 0), *tasks(place, 1)):
            opening = str([*task.messages(), task.tools()])
            assert answers.setdefault(opening, right_call(task)) == right_call(task)


@every_count
def test_later_sessions_contradict_earlier_ones_on_the_same_request(count: int) -> None:
    """Apart from the date, the same request has another right answer."""
    stream = build_stream(DISPATCH, count, 0)
    by_kind: dict[str, list[Workplace]] = {}
    for place in stream:
        by_kind.setdefault(place.request.partition(" ")[0], []).append(place)
    assert 1 < len(by_kind) < count
    for places in by_kind.values():
        for before, after in pairwise(places):
            (one,), (other,) = before.conventions.values(), after.conventions.values()
            assert one.codes.keys() == other.codes.keys()
            has_other_codes = all(one.codes[word] != other.codes[word] for word in one.codes)
            assert has_other_codes != (before.procedure[0].tool != after.procedure[0].tool)
            assert {after.procedure[0].tool} <= {tool.name for tool in after.tools}
    months = [place.since for place in stream]
    assert months == sorted(set(months))


def test_the_month_is_told_by_name_or_by_date_only() -> None:
    stream = build_stream(DISPATCH, 50, 0)
    told = [month_of(place) for place in stream]
    assert 10 < told.count("name") < 25
    by_date = [place for place in stream if month_of(place) == "date"]
    assert {"{day}" in place.system for place in by_date} == {True, False}
    assert all(("{day}" in place.system) != ("{day}" in place.request) for place in by_date)


def test_a_longer_stream_begins_with_a_shorter_one_and_another_seed_is_another_stream() -> None:
    assert build_stream(DISPATCH, 50, 0)[:10] == build_stream(DISPATCH, 10, 0)
    assert build_stream(DISPATCH, 10, 1) != build_stream(DISPATCH, 10, 0)


@pytest.mark.parametrize("workplace", [DISPATCH, HELPDESK], ids=lambda place: place.instance)
def test_the_expert_solves_every_task(workplace: Workplace) -> None:
    for place in build_stream(workplace, 10, 0):
        for task in tasks(place):
            assert run_episode(task, expert_agent(task)).is_strict_success


def test_no_two_sessions_have_the_same_rules_or_ids() -> None:
    stream = build_stream(DISPATCH, MAX_SESSIONS, 0)
    for one, other in combinations(stream, 2):
        assert (one.tools, one.request, one.conventions) != (other.tools, other.request, other.conventions)
    ids = [task_id for place in stream for task_id in place.task_ids(TASKS_PER_SESSION)]
    assert len(set(ids)) == len(ids)


def test_what_cannot_be_built_is_refused() -> None:
    for count in (1, MAX_SESSIONS + 1):
        with pytest.raises(InvalidInput, match="choose from 2 to 200"):
            build_stream(DISPATCH, count, 0)
    with pytest.raises(InvalidInput, match="orchard/ops"):
        build_stream(OPS, 10, 0)
    assert build_stream(BILLING, 3, 0)[0].request.count("{") == 2
