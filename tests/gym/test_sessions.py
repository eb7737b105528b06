"""Sessions of a workplace: each has something new, and tasks of earlier sessions keep their one right answer."""

from itertools import combinations

import pytest

from looper.gym.episode import run_episode
from looper.gym.policies import expert_agent
from looper.gym.sessions import HOLDOUT_SHARE, TASKS_PER_SESSION, build_sessions
from looper.gym.workplace import Workplace, WorkplaceCall, WorkplaceTask
from looper.gym.workplaces import BILLING, DISPATCH, HELPDESK
from looper.jobs.synthesis.stages.holdout_split import holdout_tasks
from looper.platform.domain.errors import InvalidInput

every_changing_workplace = pytest.mark.parametrize("workplace", [DISPATCH, HELPDESK], ids=lambda place: place.instance)


def tasks(place: Workplace, seed: int = 0) -> list[WorkplaceTask]:
    return [place.task(task_id, seed) for task_id in place.task_ids(TASKS_PER_SESSION)]


def first_calls(task: WorkplaceTask) -> list[WorkplaceCall]:
    return [step.to_call(task.facts) for step in task.workplace.procedure]


@every_changing_workplace
def test_a_workplace_has_five_sessions_without_a_common_task_id(workplace: Workplace) -> None:
    built = build_sessions(workplace)
    assert len(built) == 5
    assert {place.instance for place in built} == {workplace.instance}
    ids = [task_id for place in built for task_id in place.task_ids(TASKS_PER_SESSION)]
    assert len(set(ids)) == len(ids)


@every_changing_workplace
def test_the_expert_solves_every_task_of_every_session(workplace: Workplace) -> None:
    for place in build_sessions(workplace):
        for task in tasks(place):
            result = run_episode(task, expert_agent(task))
            assert result.success
            assert result.accuracy == 1.0


@every_changing_workplace
def test_the_seed_alone_determines_the_tasks(workplace: Workplace) -> None:
    for place, again in zip(build_sessions(workplace), build_sessions(workplace), strict=True):
        assert [task.request for task in tasks(place)] == [task.request for task in tasks(again)]
        assert [task.facts for task in tasks(place, 0)] != [task.facts for task in tasks(place, 1)]


@every_changing_workplace
def test_any_two_sessions_differ_in_tools_steps_or_codes(workplace: Workplace) -> None:
    for one, other in combinations(build_sessions(workplace), 2):
        assert (one.tools, one.procedure, one.conventions) != (other.tools, other.procedure, other.conventions)


@every_changing_workplace
def test_later_sessions_contradict_earlier_ones_on_the_same_request(workplace: Workplace) -> None:
    january, march, may, july, september = build_sessions(workplace)
    for old, new in ((january, may), (march, september)):
        assert old.request == new.request
        contradicted = [task for task in tasks(old) if first_calls(task) != first_calls(_under_rules_of(task, new))]
        assert contradicted == tasks(old)
    assert len(july.procedure) > len(may.procedure)


def _under_rules_of(task: WorkplaceTask, place: Workplace) -> WorkplaceTask:
    """Return the task with the rules of another session and the same request."""
    words = {convention.fact: task.facts[convention.fact] for convention in place.conventions.values()}
    codes = {name: convention.codes[words[convention.fact]] for name, convention in place.conventions.items()}
    return WorkplaceTask(task.id, place, {**task.facts, **codes}, ())


@every_changing_workplace
def test_the_first_messages_determine_the_right_calls(workplace: Workplace) -> None:
    built = build_sessions(workplace)
    assert len({place.system for place in built}) == len(built)
    answers: dict[str, list[WorkplaceCall]] = {}
    for task in (task for place in built for seed in (0, 1) for task in tasks(place, seed)):
        opening = str([*task.messages(), task.tools()])
        assert answers.setdefault(opening, first_calls(task)) == first_calls(task)


@every_changing_workplace
def test_every_session_has_enough_training_and_held_out_tasks(workplace: Workplace) -> None:
    for place in build_sessions(workplace):
        held = holdout_tasks(place.task_ids(TASKS_PER_SESSION), HOLDOUT_SHARE)
        assert 9 <= len(held) <= 17
        assert 24 <= TASKS_PER_SESSION - len(held) <= 40


@every_changing_workplace
def test_every_word_of_held_out_tasks_is_in_training_tasks(workplace: Workplace) -> None:
    """No method could learn a code that only held-out tasks need, so none would reach 1."""
    for place in build_sessions(workplace):
        held = holdout_tasks(place.task_ids(TASKS_PER_SESSION), HOLDOUT_SHARE)
        for seed in range(3):
            words = {
                side: {(c.fact, task.facts[c.fact]) for task in drawn for c in place.conventions.values()}
                for side, drawn in (
                    ("train", [task for task in tasks(place, seed) if task.id not in held]),
                    ("held", [task for task in tasks(place, seed) if task.id in held]),
                )
            }
            assert words["held"] <= words["train"]


def test_the_error_for_a_workplace_without_sessions_names_those_with_sessions() -> None:
    with pytest.raises(InvalidInput, match="harbor/dispatch, orchard/helpdesk"):
        build_sessions(BILLING)
