"""Renders examples in the contexts in which their agent may meet its tasks: with and without notes and episodes.

A skill that was taught on bare prompts alone copies placeholders out of notes and skips steps that a retrieved episode
did not need. So some examples are rendered again beside the instance's notes and beside earlier episodes. In two of
the contexts, knowledge and habit disagree: a note that is newer than the habit is followed, and an earlier episode that
did otherwise is not. What is added to a prompt is never a target.

``output/output_files.py`` calls ``render_contexts`` for each partition of an instance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from looper.jobs.synthesis.contexts.episodes import EpisodeIndex, find_request, render_episodes
from looper.jobs.synthesis.contexts.habits import Habit, Habits, find_habits, replace_habit
from looper.jobs.synthesis.contexts.notes import (
    add_notes,
    add_to_request,
    add_to_system,
    find_instance_notes,
    find_notes,
    remove_notes,
)
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.example import Example, Turn, name_rendering

MAX_EPISODES = 2
"""Maximum earlier episodes in a prompt. A skill that was taught beside one or two stands beside more."""

CHARACTERS_PER_TOKEN = 4
"""How many characters a token has, about. What is added may take half of a window."""

_WORDS = (
    "amber anchor apple arrow autumn bamboo basket beacon berry bridge bronze canal candle canyon castle cedar chapel "
    "cherry circle cliff clover cobalt copper coral cotton creek crystal dawn delta desert eagle ember falcon feather "
    "fern field forest fountain garden garnet ginger granite harvest hazel heron hill honey indigo island ivory ivy "
    "jade jasmine juniper kite lagoon lake lantern laurel lemon linen lotus maple marble meadow mint mirror moss night "
    "oak oasis ocean olive onyx opal orbit orchid otter palm pearl pebble pepper pine planet plum pond poppy prairie "
    "quartz rain raven reed river robin ruby saffron sage sand sapphire shadow shell silver sky slate snow spruce star "
    "stone storm summit swan thistle thunder tiger topaz tulip valley velvet violet walnut willow winter wren zinc"
)
NEW_VALUES = tuple(_WORDS.split())
"""Words that a newer note names where the instance has no other value for a parameter."""

_NEWER_NOTES = (
    "{what} is now {new}, no longer {old}.",
    "Since yesterday: {what} -> {new} (was {old}).",
    "Changed: use {new} as {what} from now on, not {old}.",
    "{what}: {new}. This replaces {old}.",
    "New: {what} is {new}.",
    "From today on, {what} is {new} instead of {old}.",
    "{old} is out of use. {what} -> {new}.",
    "Update: {what} = {new}",
    "We no longer use {old}: {what} is {new}.",
    "Correction: {what} should be {new}, not {old}.",
    "{new} has replaced {old} as {what}.",
    "Please use {new} for {what} now.",
)

MAX_OTHER_CHANGES = 2
"""Maximum changes in a newer note that do not concern the task at hand. An agent has to find the one that does."""


@dataclass(frozen=True)
class _Instance:
    """What the contexts of an instance's examples are made from."""

    examples: Sequence[Example]
    notes: str
    index: EpisodeIndex
    habits: Habits
    max_characters: int

    def fits(self, text: str) -> bool:
        return len(text) <= self.max_characters


def render_contexts(examples: Sequence[Example], shares: ContextShares, max_seq_length: int) -> list[Example]:
    """Render some examples again in other contexts.

    Args:
        examples: Examples of one instance, as they were recorded.
        shares: How often each example is rendered in each context.
        max_seq_length: Maximum tokens of a window. Longer notes and episodes are not added.

    Returns:
        The examples, and after each one its renderings, named by ``name_rendering``. The same examples give the same
        renderings.
    """
    if not examples or not any(share for _, share, _ in _list_contexts(shares)):
        return list(examples)
    instance = _Instance(
        examples=examples,
        notes=find_instance_notes(examples),
        index=EpisodeIndex(examples),
        habits=find_habits(examples),
        max_characters=max_seq_length * CHARACTERS_PER_TOKEN // 2,
    )
    return [rendered for example in examples for rendered in _render(example, instance, shares)]


def _render(example: Example, instance: _Instance, shares: ContextShares) -> Iterator[Example]:
    yield example
    for context, share, render in _list_contexts(shares):
        for number in range(math.ceil(share)):
            id = name_rendering(example.id, context, number)
            rng = Random(id)
            if rng.random() < share - number:
                turns = render(example, instance, rng)
                if turns is not None and turns != example.turns:
                    yield example.model_copy(update={"id": id, "turns": turns})


def _render_without_notes(example: Example, instance: _Instance, rng: Random) -> tuple[Turn, ...] | None:
    return remove_notes(example.turns)


def _render_with_notes(example: Example, instance: _Instance, rng: Random) -> tuple[Turn, ...] | None:
    if not instance.notes or find_notes(example.turns) or not instance.fits(instance.notes):
        return None
    return add_notes(example.turns, instance.notes)


def _render_with_episodes(example: Example, instance: _Instance, rng: Random) -> tuple[Turn, ...] | None:
    found = instance.index.retrieve(
        find_request(example.turns), rng.randint(1, MAX_EPISODES), without_task=example.task_id
    )
    return _add_episodes(remove_notes(example.turns), [remove_notes(each.turns) for each in found], instance, rng)


def _render_with_newer_note(example: Example, instance: _Instance, rng: Random) -> tuple[Turn, ...] | None:
    turns = bare = remove_notes(example.turns)
    own = instance.habits.of(bare)
    if not own:
        return None
    asked_in = dict.fromkeys(rng.sample(own, rng.randint(1, len(own))), find_request(bare))
    for other in rng.sample(instance.examples, min(len(instance.examples), rng.randint(0, MAX_OTHER_CHANGES))):
        elsewhere = remove_notes(other.turns)
        if foreign := [habit for habit in instance.habits.of(elsewhere) if habit not in own]:
            asked_in[rng.choice(foreign)] = find_request(elsewhere)
    lines = []
    for habit, request in asked_in.items():
        new = _choose_value(habit, instance.habits, rng)
        lines.append(_write_note(habit, new, request, instance.habits, rng))
        if habit in own:
            turns = replace_habit(turns, habit, new)
    rng.shuffle(lines)
    before = (find_notes(example.turns) or instance.notes) if rng.random() < 0.5 else ""
    notes = "\n".join(filter(None, (before, *lines)))
    return add_notes(turns, notes) if instance.fits(notes) else None


def _render_with_wrong_episodes(example: Example, instance: _Instance, rng: Random) -> tuple[Turn, ...] | None:
    bare = remove_notes(example.turns)
    found = instance.index.retrieve(find_request(bare), rng.randint(1, MAX_EPISODES), without_task=example.task_id)
    wrong = []
    for other in found:
        turns = remove_notes(other.turns)
        for habit in instance.habits.of(turns):
            turns = replace_habit(turns, habit, _choose_value(habit, instance.habits, rng))
        wrong.append(turns)
    return _add_episodes(bare, wrong, instance, rng)


_Render = Callable[[Example, _Instance, Random], tuple[Turn, ...] | None]
"""Renders an example in a context. None: the example cannot have it."""


def _list_contexts(shares: ContextShares) -> list[tuple[str, float, _Render]]:
    """Return the name, the share and the function of each context."""
    return [
        ("without_notes", shares.without_notes, _render_without_notes),
        ("with_notes", shares.with_notes, _render_with_notes),
        ("with_episodes", shares.with_episodes, _render_with_episodes),
        ("with_newer_note", shares.with_newer_note, _render_with_newer_note),
        ("with_wrong_episodes", shares.with_wrong_episodes, _render_with_wrong_episodes),
    ]


def _add_episodes(
    turns: tuple[Turn, ...], episodes: list[tuple[Turn, ...]], instance: _Instance, rng: Random
) -> tuple[Turn, ...] | None:
    """Add as many of the episodes as fit, the most similar ones, which are the last."""
    for first in range(len(episodes)):
        text = render_episodes(episodes[first:])
        if instance.fits(text):
            return rng.choice((add_to_system, add_to_request))(turns, text)
    return None


def _choose_value(habit: Habit, habits: Habits, rng: Random) -> str:
    """Return another value for a habit: in half of the cases one that the parameter has elsewhere."""
    others = [value for value in habits.values[habit.parameter] if value != habit.value]
    return rng.choice(others if others and rng.random() < 0.5 else NEW_VALUES)


def _write_note(habit: Habit, new: str, request: str, habits: Habits, rng: Random) -> str:
    """Say in one line that a habit has changed, by the words of the request that decide for it if there are any."""
    tool, name = habit.parameter
    phrase = habits.phrase(habit, request)
    what = f"{rng.choice((name, f'{tool} {name}'))} for {phrase}" if phrase else f"{tool} {name}"
    return "- " + rng.choice(_NEWER_NOTES).format(what=what, new=new, old=habit.value)
