"""Examples in the contexts in which their agent may meet its tasks."""

import re

import pytest

from looper.jobs.synthesis.contexts.notes import find_notes, remove_notes
from looper.jobs.synthesis.contexts.render_contexts import render_contexts
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.example import Example, Turn, find_context
from tests.jobs.synthesis.contexts.build import DOCKS, LANES, ship, shipments

NOTES = "- Dispatch: fish goes to ice, timber to yard"
ALL = ContextShares(**dict.fromkeys(ContextShares.model_fields, 1.0))


def render(context: str, examples: list[Example], max_seq_length: int = 4096) -> list[Example]:
    """Return what is rendered in one context."""
    rendered = render_contexts(examples, ContextShares(**{context: 1.0}), max_seq_length)
    assert [example for example in rendered if not find_context(example.id)] == examples
    return [example for example in rendered if find_context(example.id) == context]


def targets(example: Example) -> list[Turn]:
    return [turn for turn in example.turns if turn.weight]


def test_without_notes() -> None:
    examples = shipments([NOTES, NOTES])
    rendered = render("without_notes", examples)
    assert [example.id for example in rendered] == ["4711.without_notes.0", "4712.without_notes.0"]
    assert [example.turns for example in rendered] == [example.turns for example in shipments()[:2]]


def test_with_the_notes_of_other_prompts() -> None:
    examples = shipments([NOTES])
    rendered = render("with_notes", examples)
    assert len(rendered) == 7
    assert {find_notes(example.turns) for example in rendered} == {NOTES}
    assert [remove_notes(example.turns) for example in rendered] == [example.turns for example in examples[1:]]
    assert render("with_notes", shipments()) == []


def test_with_episodes_of_other_tasks() -> None:
    examples = shipments()
    rendered = render("with_episodes", examples)
    assert len(rendered) == len(examples)
    for example, before in zip(rendered, examples, strict=True):
        added = [turn.content for turn, old in zip(example.turns, before.turns, strict=True) if turn != old]
        assert len(added) == 1, "in the system turn or in the request"
        assert "<episodes>\nEpisode 1\nuser: Ship order" in added[0]
        assert f'"HD-{example.id[:4]}"' not in added[0], "its own task"
        assert targets(example) == targets(before)
    assert len({example.turns[0].content for example in rendered}) > 1
    assert any(example.turns[0].content == "Dispatch." for example in rendered), "some are in the request"


def test_the_most_similar_episode_comes_last() -> None:
    similar = ship(5000, "timber", "next week")
    others = [ship(number, "fish", "tonight") for number in range(1, 9)]
    (rendered,) = (
        example for example in render("with_episodes", [*others, similar, ship(5001, "timber", "next week")])
        if example.trajectory_id == "5001"
    )  # fmt: skip
    text = next(turn.content for turn in rendered.turns if "<episodes>" in turn.content)
    assert "order 5000" in text.rpartition("Episode")[2]


def test_a_newer_note_changes_habits_and_is_followed() -> None:
    rendered = render("with_newer_note", shipments([NOTES]))
    assert len(rendered) == 8
    for example in rendered:
        notes = find_notes(example.turns)
        arguments = " ".join(call.arguments for turn in targets(example) for call in turn.tool_calls)
        original = next(each for each in shipments() if each.id == example.trajectory_id)
        before = " ".join(call.arguments for turn in original.turns for call in turn.tool_calls)
        new = {word.strip('",}') for word in arguments.split()} - {word.strip('",}') for word in before.split()}
        assert 1 <= len(new) <= 2, "dock, lane or both"
        assert all(word in notes for word in new)
        assert original.turns[1] == example.turns[1], "the request is the same"
    assert any(NOTES in find_notes(example.turns) for example in rendered)
    assert any(NOTES not in find_notes(example.turns) for example in rendered)
    assert len({len(find_notes(example.turns).splitlines()) for example in rendered}) > 2, "other changes beside it"


def test_a_share_above_one_renders_an_example_in_several_ways() -> None:
    rendered = render_contexts(shipments(), ContextShares(with_newer_note=3.0), 4096)
    of_one = [example for example in rendered if example.id.startswith("4711.")]
    assert [example.id for example in of_one] == [f"4711.with_newer_note.{number}" for number in range(3)]
    assert len({find_notes(example.turns) for example in of_one}) == 3
    counts = [len(render_contexts(shipments(), ContextShares(with_newer_note=1.5), 4096)) for _ in range(2)]
    assert counts[0] == counts[1]
    assert 2 * 8 < counts[0] < 3 * 8


def test_a_newer_note_names_what_decides() -> None:
    notes = [find_notes(example.turns).splitlines()[-1] for example in render("with_newer_note", shipments())]
    assert all(any(word in note for word in ("fish", "timber", "tonight", "next week")) for note in notes), notes


def test_wrong_episodes_are_not_followed() -> None:
    examples = shipments()
    rendered = render("with_wrong_episodes", examples)
    assert len(rendered) == len(examples)
    for example, before in zip(rendered, examples, strict=True):
        assert targets(example) == targets(before)
        (shown,) = [turn.content for turn, old in zip(example.turns, before.turns, strict=True) if turn != old]
        for episode in shown.split("Episode")[1:]:
            found = re.search(r"order \d+, (.*), (.*)\.", episode)
            assert found
            assert f'"dock": "{DOCKS[found[1]]}"' not in episode
            assert f'"lane": "{LANES[found[2]]}"' not in episode


def test_what_is_added_takes_half_of_a_window_at_most() -> None:
    examples = shipments([NOTES])
    assert render("with_notes", examples, max_seq_length=len(NOTES) // 2) != []
    assert render("with_notes", examples, max_seq_length=len(NOTES) // 2 - 1) == []
    assert render("with_episodes", examples, max_seq_length=32) == []
    short, long = (render("with_episodes", examples, max_seq_length=length) for length in (128, 4096))
    assert sum("Episode 2" in turn.content for each in long for turn in each.turns) > 0
    assert 0 < max(len(turn.content) for each in short for turn in each.turns) < 300


def test_a_share_is_a_share_of_the_examples_and_the_same_each_time() -> None:
    examples = [ship(number, "fish", "tonight", notes=NOTES) for number in range(1000, 1400)]
    rendered = render_contexts(examples, ContextShares(without_notes=0.25), 1024)
    assert 70 < len(rendered) - len(examples) < 130
    assert render_contexts(examples, ContextShares(without_notes=0.25), 1024) == rendered


@pytest.mark.parametrize("examples", [[], [ship(1, "fish", "tonight")]])
def test_few_examples(examples: list[Example]) -> None:
    assert render_contexts(examples, ALL, 1024) == examples


def test_an_example_without_text_of_the_user() -> None:
    silent = Example(id="1", trajectory_id="1", task_id="1", turns=(Turn(role="assistant", content="done", weight=1),))
    assert len(render_contexts([silent, *shipments()], ALL, 1024)) > 9
