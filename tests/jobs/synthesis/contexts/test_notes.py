"""Notes in prompts: what an agent had is found again, and nothing else changes."""

import pytest

from looper.jobs.synthesis.contexts.notes import (
    add_notes,
    add_to_request,
    find_instance_notes,
    find_notes,
    remove_notes,
)
from looper.platform.domain.example import Turn
from tests.jobs.synthesis.contexts.build import ship, shipments

SYSTEM, USER, AGENT = Turn(role="system", content="Desk."), Turn(role="user", content="Hi"), Turn(role="assistant")


@pytest.mark.parametrize("turns", [(SYSTEM, USER, AGENT), (USER, AGENT)])
def test_notes_that_are_added_are_found_and_removed_again(turns: tuple[Turn, ...]) -> None:
    added = add_notes(turns, "- Fish goes to ice.\n- Timber goes to yard.")
    assert added[0].role == "system"
    assert find_notes(added) == "- Fish goes to ice.\n- Timber goes to yard."
    assert remove_notes(added) == turns
    assert [turn.weight for turn in added] == [0.0] * len(added)


def test_what_stands_around_notes_stays() -> None:
    around = Turn(role="system", content="Before.\n<notes>\nold\n</notes>\nAfter.")
    assert remove_notes((around, USER)) == (Turn(role="system", content="Before.\nAfter."), USER)


def test_notes_in_a_request_are_the_users_words() -> None:
    turns = (Turn(role="user", content="<notes>mine</notes>"),)
    assert (find_notes(turns), remove_notes(turns)) == ("", turns)


def test_a_prompt_of_opening_tags_alone_is_read_once() -> None:
    """A pattern that looks for the end from each of them takes hours."""
    turns = (Turn(role="system", content="<notes>" * 200_000 + "x</notes>"),)
    assert find_notes(turns) == "x"
    assert remove_notes(turns)[0].content == "<notes>" * 199_999


def test_a_text_before_the_request() -> None:
    assert add_to_request((SYSTEM, USER, AGENT), "Earlier.")[1].content == "Earlier.\nHi"
    assert add_to_request((SYSTEM,), "Earlier.") == (SYSTEM,)


def test_an_instance_has_the_notes_that_most_of_its_prompts_have() -> None:
    assert find_instance_notes(shipments(["a", "b", "b"])) == "b"
    assert find_instance_notes([ship(1, "fish", "tonight")]) == ""
