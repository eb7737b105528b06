"""Notes of the gym's workplaces: they hold all rules, and every fourth recorded episode has them."""

import json

import pytest

from looper.gym.generate import record_episodes
from looper.gym.hard_workplaces import HARD_WORKPLACES
from looper.gym.notes import write_notes
from looper.gym.workplace import Workplace
from looper.gym.workplaces import DISPATCH, WORKPLACES
from looper.jobs.synthesis.contexts.notes import NOTES

ALL_WORKPLACES = WORKPLACES | HARD_WORKPLACES


def test_the_notes_of_a_workplace() -> None:
    assert write_notes(DISPATCH) == (
        "- open ref=HD-<order>.\n"
        "- book ref=HD-<order>, dock=<dock>, lane=<lane>.\n"
        "- dock by goods: fish -> ice, timber -> yard, oil -> tank.\n"
        "- lane by urgency: tonight -> fast, next week -> slow.\n"
        "- On E_LOCKED: unlock ref=HD-<order>, reason=R7, then the same call again."
    )


@pytest.mark.parametrize("workplace", ALL_WORKPLACES.values(), ids=ALL_WORKPLACES)
def test_no_rule_is_left_out(workplace: Workplace) -> None:
    notes = write_notes(workplace)
    for name, convention in workplace.conventions.items():
        assert all(f"{word} -> {code}" in notes for word, code in convention.codes.items())
        assert all(f"{name}={case.code} if {case.fact} is {case.word}" in notes for case in convention.special_cases)
    assert all(question.text in notes for question in workplace.questions)
    assert all(name in notes for name in workplace.distractors)
    assert "{" not in notes


def test_every_fourth_recorded_episode_has_the_notes() -> None:
    lines = [json.loads(episode.to_jsonl()) for episode in record_episodes(DISPATCH, seed=0, tasks=8)]
    systems = [line["messages"][0]["content"] for line in lines]
    assert [bool(NOTES.search(system)) for system in systems] == [True, False, False, False] * 2
    assert systems[0] == f"{systems[1]}\n<notes>\n{write_notes(DISPATCH)}\n</notes>"
