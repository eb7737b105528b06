"""The stages that see all episodes of a task: credit, duplicates, leaks and preference pairs."""

from collections.abc import Sequence

import pytest

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.pipeline.stages import run_all_stages, run_episode_stages
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.credit import (
    CONTRADICTED_SUCCESS_WEIGHT,
    LUCKY_SUCCESS_WEIGHT,
    MINOR_STEP_WEIGHT,
    ToolHabits,
    assign_step_credit,
    downweight_contradicted_successes,
    downweight_lucky_success,
    successful_tools,
)
from looper.jobs.synthesis.stages.duplicates import drop_duplicates
from looper.jobs.synthesis.stages.grade import grade
from looper.jobs.synthesis.stages.preference_pairs import find_preference_pairs
from looper.jobs.synthesis.stages.task_leaks import (
    MAX_PAIRWISE_REQUESTS,
    canonical_task_names,
    digest_request,
    find_similar_tasks,
)
from looper.platform.domain.trajectory import Step, Trajectory
from tests.jobs.synthesis.play import call, draft, play

OPEN = (call("open", room="7"), "opened")
BOOK = (call("book", room="7", day="1"), "booked")


def told(*steps: object, **more: object) -> Draft:
    return grade(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def weights(of: Draft) -> list[float]:
    return [each.weight for each in of.steps if each.step.source == "agent"]


def test_a_call_that_caused_an_error_is_not_learned_and_its_correction_is() -> None:
    (wrong,) = assign_step_credit([told(call("book", room="99", day="1"), "Error: room not found", *BOOK, "done")])
    assert weights(wrong) == [0, 1, 1]
    (twice,) = assign_step_credit([told(call("book", room="7", day="2"), "booked", *BOOK, "done")])
    assert weights(twice) == [0, 1, 1]
    (looked,) = assign_step_credit(
        [told(call("get", room="7", day="2"), "no", call("get", room="7", day="1"), "yes", "done")]
    )
    assert weights(looked) == [1, 1, 1]


def test_a_changed_request_is_neither_a_correction_nor_a_repetition() -> None:
    steps = play(call("book", room="7", day="2"), "booked", call("book", room="7", day="1"), "booked", "done").steps
    user = Step(source="user", content="Make that day 1.")
    asked_anew = Trajectory.create(task_id="t", format="test", steps=(*steps[:4], user, *steps[4:]))
    (changed,) = assign_step_credit([run_episode_stages(Draft.from_trajectory(asked_anew, has_labels=False))])
    assert [placed.weight for placed in changed.steps if placed.step.source == "agent"] == [1, 1, 1]
    again = play(call("get_room", room="7"), "free", call("get_room", room="7"), "free", "done").steps
    asked_again = Trajectory.create(task_id="t", format="test", steps=(*again[:4], user, *again[4:]))
    assert len(run_episode_stages(Draft.from_trajectory(asked_again, has_labels=False)).steps) == len(asked_again.steps)


def test_actions_after_the_last_change_that_failures_share_get_minor_weight() -> None:
    after = (call("get_room", room="7"), "booked")
    failure = told(*OPEN, *after, "done", success=False)
    good, bad = assign_step_credit([told(*OPEN, *BOOK, *after, "done"), failure])
    assert weights(good) == [1, 1, MINOR_STEP_WEIGHT, 1]
    assert bad == failure


def test_an_unchecked_success_that_contradicts_checked_ones_gets_low_weight() -> None:
    said_only, other_day = '{"reward_basis": ["COMMUNICATE"]}', (call("book", room="7", day="2"), "booked")
    checked = told(*OPEN, *BOOK, "done", detail='{"reward_basis": ["DB"]}')
    same_write = told(*BOOK, "done", detail=said_only)
    more = told(*BOOK, call("book", room="8", day="2"), "booked", "done", detail=said_only)
    corrected = told(*other_day, *BOOK, "done", detail=said_only)
    otherwise = told(*OPEN, *other_day, "done", detail=said_only)
    assert downweight_contradicted_successes([checked, same_write, more, corrected]) == [
        checked,
        same_write,
        more,
        corrected,
    ]
    assert downweight_contradicted_successes([same_write, otherwise]) == [same_write, otherwise]
    doubted = downweight_contradicted_successes([checked, otherwise])[1]
    assert doubted.weight == CONTRADICTED_SUCCESS_WEIGHT
    assert doubted.verdicts[-1].code == "contradicted"


def test_a_success_without_the_usual_tools_gets_low_weight() -> None:
    usual = [told(*OPEN, *BOOK, "done", task=f"t{n}") for n in range(11)]
    lucky = told(*BOOK, "done", task="lucky")
    habits = ToolHabits.from_tool_sequences(map(successful_tools, [*usual, lucky]))
    assert downweight_lucky_success(lucky, habits).weight == LUCKY_SUCCESS_WEIGHT
    assert downweight_lucky_success(usual[0], habits) == usual[0]
    few = ToolHabits.from_tool_sequences(map(successful_tools, usual[:5]))
    assert downweight_lucky_success(lucky, few) == lucky, "five are no habit"


def test_tool_habits_of_parts_add_up() -> None:
    episodes = [("open", "book"), ("open", "find", "book"), ("book",)]
    whole = ToolHabits.from_tool_sequences(episodes)
    assert ToolHabits.from_tool_sequences(episodes[:1]) + ToolHabits.from_tool_sequences(episodes[1:]) == whole
    assert ToolHabits.from_json(whole.to_json()) == whole


def reasons(task: Sequence[Draft]) -> list[str | None]:
    return [draft.rejected for draft in drop_duplicates(task)]


def test_duplicates_are_dropped_and_at_most_three_ways_are_kept() -> None:
    ways = [told(*OPEN * count, *BOOK, "done") for count in range(5)]
    assert sorted(map(str, reasons(ways))) == ["None"] * 3 + ["too_many"] * 2
    again = told(*BOOK, "All is done now, as you asked.")
    assert sorted(map(str, reasons([ways[0], again]))) == ["None", "duplicate"]


def test_episodes_without_calls_are_compared_by_their_words() -> None:
    text = "The room is free on Monday, on Tuesday and on Wednesday, and it costs ninety a night with breakfast."
    assert reasons([told(text), told(text + " "), told("No.")]).count("duplicate") == 1


def test_tasks_with_the_same_request_get_one_name() -> None:
    same, other = (digest_request(told(*BOOK, request=request)).text_digest for request in ("Book  7. ", "Book 8."))
    assert digest_request(told("no", request="book 7.")).text_digest == same != other
    assert canonical_task_names([("b", "1"), ("a", "1"), ("c", "2"), ("c", "1"), ("d", "3")]) == {"b": "a", "c": "a"}


@pytest.mark.parametrize(
    ("request_", "one"),
    [
        ("Hello! Could you cancel order 17 of Ann Smith, and refund it? Thanks.", True),
        ("Cancel order 17, of Ann Smith, and refund it now!", True),
        ("CANCEL ORDER 17 OF ANN SMITH AND REFUND IT!", True),
        ("Cancel order 71 of Ann Smith and refund it.", False),
        ("Cancel order 17 of Ann Smith and refund 17.50.", False),
        ("Confirm order 17 of Ann Smith and refund it.", False),
        ("Cancel order 17 of Bob Smith and refund it.", False),
        ("Hi!", False),
    ],
)
def test_tasks_with_similar_requests_and_equal_numbers_get_one_name(request_: str, one: bool) -> None:
    batch = [
        play(*BOOK, "done", task="a", request="Cancel order 17 of Ann Smith and refund it."),
        play(*OPEN, *BOOK, "done", task="b", request=request_),
    ]
    names = [task.name for task in run_all_stages([batch])]
    assert names == (["a"] if one else ["a", "b"])


@pytest.mark.parametrize("others", [0, MAX_PAIRWISE_REQUESTS])
def test_similar_requests_are_found_with_and_without_minhash(others: int) -> None:
    request = "cancel the first order of ann smith and then refund all of it to her card"
    said = [("a", "", f"{request} today"), ("b", "", f"{request} now")]
    said += [(f"other {n}", "", f"find{n} the{n} room{n}") for n in range(others)]
    assert list(find_similar_tasks(said)) == [("a", "b")]


def test_pairs_start_where_the_agent_differs() -> None:
    good, bad = (
        told(*OPEN, *BOOK, "done"),
        told(*OPEN, call("book", room="8", day="1"), "booked", "done", success=False),
    )
    (pair,) = find_preference_pairs([good, bad])
    assert [turn.role for turn in pair.prefix] == ["system", "user", "assistant", "tool"]
    assert not any(turn.weight for turn in pair.prefix)
    assert ('"7"' in pair.chosen.tool_calls[0].arguments, '"8"' in pair.rejected.tool_calls[0].arguments) == (
        True,
        True,
    )


@pytest.mark.parametrize("other", [(*OPEN, *BOOK, "done"), (call("open", room="7"), "locked", "sorry")])
def test_there_is_no_pair_if_the_agent_did_not_differ_first(other: tuple[object, ...]) -> None:
    assert find_preference_pairs([told(*OPEN, *BOOK, "done"), told(*other, success=False)]) == []
