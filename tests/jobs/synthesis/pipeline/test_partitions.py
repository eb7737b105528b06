"""What is told from an episode's fellows: credit, luck, duplicates, leaks, pairs."""

from collections.abc import Sequence

import pytest

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.pipeline.stages import each, refine
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.credit import DOUBTFUL, LUCKY, MINOR, Habits, attribute, discount_luck, doubt, worked
from looper.jobs.synthesis.stages.duplicates import drop_duplicates
from looper.jobs.synthesis.stages.grade import grade
from looper.jobs.synthesis.stages.preference_pairs import contrast
from looper.jobs.synthesis.stages.task_leaks import FEW, alike, asked, one_name
from looper.platform.domain.trajectory import Step, Trajectory
from tests.jobs.synthesis.play import call, draft, play

OPEN = (call("open", room="7"), "opened")
BOOK = (call("book", room="7", day="1"), "booked")


def told(*steps: object, **more: object) -> Draft:
    return grade(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def weights(of: Draft) -> list[float]:
    return [each.weight for each in of.steps if each.step.source == "agent"]


def test_who_caused_an_error_is_not_learned_and_who_put_it_right_is() -> None:
    (wrong,) = attribute([told(call("book", room="99", day="1"), "Error: room not found", *BOOK, "done")])
    assert weights(wrong) == [0, 1, 1]
    (twice,) = attribute([told(call("book", room="7", day="2"), "booked", *BOOK, "done")])
    assert weights(twice) == [0, 1, 1]
    (looked,) = attribute([told(call("get", room="7", day="2"), "no", call("get", room="7", day="1"), "yes", "done")])
    assert weights(looked) == [1, 1, 1]


def test_what_the_user_asks_for_anew_is_not_put_right_and_not_repeated() -> None:
    steps = play(call("book", room="7", day="2"), "booked", call("book", room="7", day="1"), "booked", "done").steps
    user = Step(source="user", content="Make that day 1.")
    asked_anew = Trajectory.of(task_id="t", format="test", steps=(*steps[:4], user, *steps[4:]))
    (changed,) = attribute([each(Draft.of(asked_anew, labelled=False))])
    assert [placed.weight for placed in changed.steps if placed.step.source == "agent"] == [1, 1, 1]
    again = play(call("get_room", room="7"), "free", call("get_room", room="7"), "free", "done").steps
    asked_again = Trajectory.of(task_id="t", format="test", steps=(*again[:4], user, *again[4:]))
    assert len(each(Draft.of(asked_again, labelled=False)).steps) == len(asked_again.steps)


def test_what_failures_did_too_after_the_last_change_is_minor() -> None:
    after = (call("get_room", room="7"), "booked")
    failure = told(*OPEN, *after, "done", success=False)
    good, bad = attribute([told(*OPEN, *BOOK, *after, "done"), failure])
    assert weights(good) == [1, 1, MINOR, 1]
    assert bad == failure


def test_a_success_that_nobody_checked_is_doubted_where_checked_ones_wrote_otherwise() -> None:
    said_only, other_day = '{"reward_basis": ["COMMUNICATE"]}', (call("book", room="7", day="2"), "booked")
    checked = told(*OPEN, *BOOK, "done", detail='{"reward_basis": ["DB"]}')
    alike = told(*BOOK, "done", detail=said_only)
    more = told(*BOOK, call("book", room="8", day="2"), "booked", "done", detail=said_only)
    corrected = told(*other_day, *BOOK, "done", detail=said_only)
    otherwise = told(*OPEN, *other_day, "done", detail=said_only)
    assert doubt([checked, alike, more, corrected]) == [checked, alike, more, corrected]
    assert doubt([alike, otherwise]) == [alike, otherwise]
    doubted = doubt([checked, otherwise])[1]
    assert doubted.weight == DOUBTFUL
    assert doubted.verdicts[-1].what == "contradicted"


def test_luck_is_what_hardly_anybody_had() -> None:
    usual = [told(*OPEN, *BOOK, "done", task=f"t{n}") for n in range(11)]
    lucky = told(*BOOK, "done", task="lucky")
    habits = Habits.of(map(worked, [*usual, lucky]))
    assert discount_luck(lucky, habits).weight == LUCKY
    assert discount_luck(usual[0], habits) == usual[0]
    few = Habits.of(map(worked, usual[:5]))
    assert discount_luck(lucky, few) == lucky, "five are no habit"


def test_habits_of_parts_add_up() -> None:
    episodes = [("open", "book"), ("open", "find", "book"), ("book",)]
    whole = Habits.of(episodes)
    assert Habits.of(episodes[:1]) + Habits.of(episodes[1:]) == whole
    assert Habits.from_json(whole.to_json()) == whole


def reasons(task: Sequence[Draft]) -> list[str | None]:
    return [draft.rejected for draft in drop_duplicates(task)]


def test_one_way_of_doing_a_task_is_kept_once_and_three_ways_at_most() -> None:
    ways = [told(*OPEN * count, *BOOK, "done") for count in range(5)]
    assert sorted(map(str, reasons(ways))) == ["None"] * 3 + ["too_many"] * 2
    again = told(*BOOK, "All is done now, as you asked.")
    assert sorted(map(str, reasons([ways[0], again]))) == ["None", "duplicate"]


def test_words_tell_where_nothing_was_done() -> None:
    text = "The room is free on Monday, on Tuesday and on Wednesday, and it costs ninety a night with breakfast."
    assert reasons([told(text), told(text + " "), told("No.")]).count("duplicate") == 1


def test_tasks_that_ask_for_the_same_go_by_one_name() -> None:
    same, other = (asked(told(*BOOK, request=request)).same for request in ("Book  7. ", "Book 8."))
    assert asked(told("no", request="book 7.")).same == same != other
    assert one_name([("b", "1"), ("a", "1"), ("c", "2"), ("c", "1"), ("d", "3")]) == {"b": "a", "c": "a"}


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
def test_tasks_that_ask_for_nearly_the_same_go_by_one_name_if_their_numbers_are_equal(request_: str, one: bool) -> None:
    batch = [
        play(*BOOK, "done", task="a", request="Cancel order 17 of Ann Smith and refund it."),
        play(*OPEN, *BOOK, "done", task="b", request=request_),
    ]
    names = [task.name for task in refine([batch])]
    assert names == (["a"] if one else ["a", "b"])


@pytest.mark.parametrize("others", [0, FEW])
def test_requests_that_are_nearly_the_same_are_found_among_few_and_among_many(others: int) -> None:
    request = "cancel the first order of ann smith and then refund all of it to her card"
    said = [("a", "", f"{request} today"), ("b", "", f"{request} now")]
    said += [(f"other {n}", "", f"find{n} the{n} room{n}") for n in range(others)]
    assert list(alike(said)) == [("a", "b")]


def test_pairs_part_where_the_agent_does() -> None:
    good, bad = (
        told(*OPEN, *BOOK, "done"),
        told(*OPEN, call("book", room="8", day="1"), "booked", "done", success=False),
    )
    (pair,) = contrast([good, bad])
    assert [turn.role for turn in pair.prefix] == ["system", "user", "assistant", "tool"]
    assert not any(turn.weight for turn in pair.prefix)
    assert ('"7"' in pair.chosen.tool_calls[0].arguments, '"8"' in pair.rejected.tool_calls[0].arguments) == (
        True,
        True,
    )


@pytest.mark.parametrize("other", [(*OPEN, *BOOK, "done"), (call("open", room="7"), "locked", "sorry")])
def test_there_is_no_pair_where_the_world_parted_them_or_nothing_did(other: tuple[object, ...]) -> None:
    assert contrast([told(*OPEN, *BOOK, "done"), told(*other, success=False)]) == []
