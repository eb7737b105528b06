"""Sessions of a work place: every one brings something new, and no task of an older one becomes unanswerable."""

from itertools import combinations

import pytest

from looper.gym.episode import run_episode
from looper.gym.policies import expert
from looper.gym.sessions import HOLDOUT, TASKS, sessions
from looper.gym.workplace import ExpectedCall, Workplace, WorkplaceTask
from looper.gym.workplaces import BILLING, DISPATCH, HELPDESK
from looper.jobs.synthesis.stages.holdout_split import holdout_tasks
from looper.platform.domain.errors import InvalidInput

every_life = pytest.mark.parametrize("workplace", [DISPATCH, HELPDESK], ids=lambda place: place.instance)


def tasks(place: Workplace, seed: int = 0) -> list[WorkplaceTask]:
    return [place.task(task_id, seed) for task_id in place.task_ids(TASKS)]


def first_calls(task: WorkplaceTask) -> list[ExpectedCall]:
    return [step.call(task.facts) for step in task.workplace.procedure]


@every_life
def test_an_instance_lives_through_five_sessions(workplace: Workplace) -> None:
    lived = sessions(workplace)
    assert len(lived) == 5
    assert {place.instance for place in lived} == {workplace.instance}
    ids = [task_id for place in lived for task_id in place.task_ids(TASKS)]
    assert len(set(ids)) == len(ids)


@every_life
def test_the_expert_solves_every_task_of_every_session(workplace: Workplace) -> None:
    for place in sessions(workplace):
        for task in tasks(place):
            result = run_episode(task, expert(task))
            assert result.success
            assert result.accuracy == 1.0


@every_life
def test_the_same_seed_draws_the_same_tasks_and_another_one_others(workplace: Workplace) -> None:
    for place, again in zip(sessions(workplace), sessions(workplace), strict=True):
        assert [task.request for task in tasks(place)] == [task.request for task in tasks(again)]
        assert [task.facts for task in tasks(place, 0)] != [task.facts for task in tasks(place, 1)]


@every_life
def test_every_session_is_new_in_its_tools_its_steps_or_its_codes(workplace: Workplace) -> None:
    for one, other in combinations(sessions(workplace), 2):
        assert (one.tools, one.procedure, one.conventions) != (other.tools, other.procedure, other.conventions)


@every_life
def test_some_later_session_does_the_same_request_otherwise(workplace: Workplace) -> None:
    january, march, may, july, september = sessions(workplace)
    for old, new in ((january, may), (march, september)):
        assert old.request == new.request
        contradicted = [task for task in tasks(old) if first_calls(task) != first_calls(_moved(task, new))]
        assert contradicted == tasks(old)
    assert len(july.procedure) > len(may.procedure)


def _moved(task: WorkplaceTask, place: Workplace) -> WorkplaceTask:
    """The same request under the rules of another session."""
    words = {convention.fact: task.facts[convention.fact] for convention in place.conventions.values()}
    codes = {name: convention.codes[words[convention.fact]] for name, convention in place.conventions.items()}
    return WorkplaceTask(task.id, place, {**task.facts, **codes}, ())


@every_life
def test_what_an_episode_opens_with_tells_which_rules_hold(workplace: Workplace) -> None:
    lived = sessions(workplace)
    assert len({place.system for place in lived}) == len(lived)
    answers: dict[str, list[ExpectedCall]] = {}
    for task in (task for place in lived for seed in (0, 1) for task in tasks(place, seed)):
        opening = str([*task.messages(), task.tools()])
        assert answers.setdefault(opening, first_calls(task)) == first_calls(task)


@every_life
def test_sessions_are_split_into_enough_to_learn_and_enough_to_judge(workplace: Workplace) -> None:
    for place in sessions(workplace):
        held = holdout_tasks(place.task_ids(TASKS), HOLDOUT)
        assert 9 <= len(held) <= 17
        assert 24 <= TASKS - len(held) <= 40


@every_life
def test_every_held_out_word_was_trained(workplace: Workplace) -> None:
    """A code that only held-out tasks need could not be learned: no method would reach 1."""
    for place in sessions(workplace):
        held = holdout_tasks(place.task_ids(TASKS), HOLDOUT)
        for seed in range(3):
            words = {
                side: {(c.fact, task.facts[c.fact]) for task in drawn for c in place.conventions.values()}
                for side, drawn in (
                    ("train", [task for task in tasks(place, seed) if task.id not in held]),
                    ("held", [task for task in tasks(place, seed) if task.id in held]),
                )
            }
            assert words["held"] <= words["train"]


def test_a_work_place_without_sessions_says_which_have_them() -> None:
    with pytest.raises(InvalidInput, match="harbor/dispatch, orchard/helpdesk"):
        sessions(BILLING)
