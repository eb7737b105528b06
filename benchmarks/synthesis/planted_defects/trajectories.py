"""Trajectories of the gym with planted defects, and how well a synthesis pipeline finds them.

``planted(seed)`` writes the episodes and the truth about them, ``score`` compares it with what became of them, and
``to_markdown`` shows it. Beside each class stand its controls: episodes that look like it and are clean, such as a
status that is polled until it changes, or an answer with the word "error" in it.

Every episode is of a task, and a request, of its own, except where copies and leaks are planted. Defects in the
steps are not planted in copies, so that what is dropped as a copy hides no defect.
"""

from collections.abc import Callable
from itertools import chain

from looper.benchmarks.synthesis.planted_defects.copies import (
    copies,
    greeting,
    leak,
    near_leak,
    sibling,
    some_ways,
    too_many,
)
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play
from looper.benchmarks.synthesis.planted_defects.mistakes import (
    causal_code,
    causal_words,
    environment,
    error_word,
    informative,
    transient,
)
from looper.benchmarks.synthesis.planted_defects.privacy import innocent, innocent_by_nature, sensitive
from looper.benchmarks.synthesis.planted_defects.repetition import (
    loop,
    other_arguments,
    polling,
    read_again,
    repeated_call,
)
from looper.benchmarks.synthesis.planted_defects.scoring import ClassScore, score, to_markdown
from looper.benchmarks.synthesis.planted_defects.script import HISTORY, Script
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind, Group, Planted, PlantedText, Span
from looper.gym.workplace import Workplace
from looper.gym.workplaces import WORKPLACES

__all__ = ["ClassScore", "DefectKind", "Group", "Planted", "PlantedText", "Span", "planted", "score", "to_markdown"]


def planted(seed: int) -> Planted:
    """The trajectories of all work places with the truth about them. The same seed gives the same, byte for byte."""
    shelves = [_filled(place, seed) for place in WORKPLACES.values()]
    return Planted(
        batches=[batch for shelf in shelves for batch in shelf.files],
        instances=[shelf.place.instance for shelf in shelves for _ in shelf.files],
        spans=tuple(chain.from_iterable(shelf.spans for shelf in shelves)),
        groups=tuple(chain.from_iterable(shelf.groups for shelf in shelves)),
        texts=tuple(chain.from_iterable(shelf.texts for shelf in shelves)),
    )


def _filled(place: Workplace, seed: int) -> EpisodeFiles:
    shelf = EpisodeFiles(place, seed)
    for write, count in _PLAN:
        for number in range(count):
            write(shelf, number)
    if _can_skip(place):
        for _ in range(LUCKY):
            _lucky(shelf)
        for number in range(CLEAN_BESIDE_LUCKY):
            _clean(shelf, number)
    shelf.shuffle()
    return shelf


def _clean(shelf: EpisodeFiles, number: int) -> None:
    """Two of five look into the history, which nobody has to; one of four meets the house's own error."""
    task = shelf.task(blocked=number % 4 == 3)
    shelf.put(play(task, (HISTORY,) if number % 5 < 2 else ()).end())


def _can_skip(place: Workplace) -> bool:
    """Whether an agent can do without the first step: one whose answer is needed, nobody skips."""
    first = place.procedure[0]
    return first.reads and "{" not in first.answer


def _lucky(shelf: EpisodeFiles) -> None:
    script = Script(shelf.task())
    script.make(script.write)
    script.work()
    trajectory = shelf.put(script.end())
    shelf.groups.append(Group(DefectKind.LUCKY, frozenset({trajectory}), cases=1, most=1))


_PLAN: tuple[tuple[Callable[[EpisodeFiles, int], None], int], ...] = (
    (_clean, 60),
    (loop, 18),
    (repeated_call, 12),
    (read_again, 6),
    (polling, 8),
    (other_arguments, 9),
    (transient, 14),
    (causal_code, 14),
    (causal_words, 12),
    (informative, 15),
    (environment, 14),
    (error_word, 12),
    (sensitive(DefectKind.SECRET), 14),
    (innocent(DefectKind.SECRET), 7),
    (sensitive(DefectKind.PERSONAL), 14),
    (innocent(DefectKind.PERSONAL), 7),
    (innocent_by_nature, 6),
    (copies, 9),
    (too_many, 3),
    (some_ways, 4),
    (leak, 11),
    (greeting, 4),
    (near_leak, 6),
    (sibling, 5),
)
"""How many of each, per work place."""

LUCKY = 22
CLEAN_BESIDE_LUCKY = 60
"""More of each where a step can be skipped: what the house asks for is what nearly all successes do."""
