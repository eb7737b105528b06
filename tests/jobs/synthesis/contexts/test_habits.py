"""Habits: values that the agent knows and has not read."""

import pytest

from looper.jobs.synthesis.contexts.habits import MAX_VALUES, Habit, Parameter, find_habits, replace_habit
from looper.platform.domain.example import Turn
from looper.platform.domain.trajectory import ToolCall
from tests.jobs.synthesis.contexts.build import call, ship, shipments

DOCK, LANE = Parameter("book", "dock"), Parameter("book", "lane")


def test_values_that_several_tasks_share_are_habits_and_references_are_not() -> None:
    habits = find_habits(shipments())
    assert habits.values == {DOCK: ["ice", "yard"], LANE: ["fast", "slow"]}


def test_a_value_of_one_task_is_no_habit() -> None:
    assert find_habits([ship(1, "fish", "tonight"), ship(2, "timber", "next week")]).values == {}


@pytest.mark.parametrize(("number", "is_habit"), [(MAX_VALUES, True), (MAX_VALUES + 1, False)])
def test_a_parameter_with_many_values_has_ids_and_no_habits(number: int, is_habit: bool) -> None:
    examples = [
        ship(2 * value + task, "fish", "tonight", dock=f"dock{value}") for value in range(number) for task in range(2)
    ]
    assert (DOCK in find_habits(examples).values) is is_habit


def test_the_deciding_words_of_a_request_are_found() -> None:
    habits = find_habits(shipments())
    request = "Ship order 4711, timber, next week."
    assert habits.phrase(Habit(DOCK, "yard"), request) == "timber"
    assert habits.phrase(Habit(LANE, "slow"), request) == "next week"
    assert habits.phrase(Habit(LANE, "fast"), request) == ""


def test_what_the_agent_has_read_is_no_habit_of_the_episode() -> None:
    habits = find_habits(shipments())
    example = ship(1, "fish", "tonight")
    assert habits.of(example.turns) == [Habit(DOCK, "ice"), Habit(LANE, "fast")]
    told = (*example.turns[:3], Turn(role="tool", content="put it on ice"), *example.turns[4:])
    assert habits.of(told) == [Habit(LANE, "fast")]


def test_a_value_whose_words_stand_in_the_request_is_no_habit() -> None:
    turns = (Turn(role="user", content="Refund Alice Stone."), call("find", name="Stone, Alice"))
    examples = [ship(number, "fish", "tonight").model_copy(update={"turns": turns}) for number in (1, 2)]
    assert find_habits(examples).values == {}


def test_a_turn_that_is_not_learned_shows_no_habit() -> None:
    wrong = [
        example.model_copy(update={"turns": (call("book", 0.0, dock="tank"), *example.turns)})
        for example in shipments()
    ]
    assert find_habits(wrong).values[DOCK] == ["ice", "yard"]


def test_a_habit_is_replaced_in_calls_and_in_what_answers_them() -> None:
    example = ship(1, "fish", "tonight")
    changed = replace_habit(example.turns, Habit(DOCK, "ice"), "pier")
    assert changed == ship(1, "fish", "tonight", dock="pier").turns


def test_all_else_in_the_arguments_stays_as_it_was_written() -> None:
    raw = '{"id": 9400111899223346000001, "dock" : "ice",  "note": "ice", "rate": 1.0}'
    turn = Turn(role="assistant", tool_calls=(ToolCall(id="a", name="book", arguments=raw),), weight=1.0)
    (changed,) = replace_habit([turn], Habit(DOCK, "ice"), "pier")
    assert changed.tool_calls[0].arguments == raw.replace(' : "ice"', ' : "pier"')
    (other,) = replace_habit([turn], Habit(Parameter("open", "dock"), "ice"), "pier")
    assert other == turn


def test_arguments_that_are_no_object_are_no_habits() -> None:
    for arguments in ("[1]", "{", '{"dock": 3}', '{"dock": ""}', f'{{"dock": "{"x" * 65}"}}'):
        turn = Turn(role="assistant", tool_calls=(ToolCall(id="a", name="book", arguments=arguments),), weight=1.0)
        examples = [ship(number, "fish", "tonight").model_copy(update={"turns": (turn,)}) for number in (1, 2)]
        assert find_habits(examples).values == {}
