"""Knowledge layers that put notes into the prompt: the true rules, wrong ones, newer ones, ones among other text."""

from random import Random

from typing_extensions import override

from looper.benchmarks.skill.arms.changed_rules import change_one_code, shuffle_codes
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem
from looper.benchmarks.skill.player import PromptKnowledge, TaskPlayer
from looper.gym.episode import EpisodeResult
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask
from looper.jobs.synthesis.contexts.notes import wrap_notes

OTHER_TEXT_TOKENS = 8_000
"""Tokens of other text among which the notes stand in the position test, about."""
WORDS_PER_TOKEN = 0.7
"""Common English words a token, about."""


class Notes(MemorySystem):
    """The true rules of the world, as in the prompts of some recorded episodes."""

    name = "notes"

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return PromptKnowledge(wrap_notes(write_notes(memory.experience.world)))


class ShuffledNotes(MemorySystem):
    """Rules whose codes stand at the wrong words. The goal does not follow them: whoever reads them fails."""

    name = "shuffled notes"
    is_robustness = True

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return PromptKnowledge(wrap_notes(write_notes(shuffle_codes(memory.experience.world))))


class NewerNote(MemorySystem):
    """The rules, and below them a line that changes a code of this task. The task's goal follows the newer line."""

    name = "newer note"
    is_robustness = True

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        _, rule = change_one_code(task, memory.experience.seed)
        line = f"- From this morning the {rule.convention} for {rule.word} is {rule.new} instead of {rule.old}."
        return PromptKnowledge(wrap_notes(f"{write_notes(memory.experience.world)}\n{line}"))

    @override
    def play(self, task: WorkplaceTask, memory: Memory, player: TaskPlayer) -> EpisodeResult:
        changed, _ = change_one_code(task, memory.experience.seed)
        return player.play(changed, self.recall(task, memory))


class NotesAmongText(MemorySystem):
    """The true rules first, in the middle or last of 8,000 tokens of text that has nothing to do with the task."""

    def __init__(self, place: str) -> None:
        """Choose the place.

        Args:
            place: ``first``, ``middle`` or ``last``.
        """
        self.name = f"notes {place} of {OTHER_TEXT_TOKENS:,} tokens"
        self._share = {"first": 0.0, "middle": 0.5, "last": 1.0}[place]

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        other = write_other_text(int(OTHER_TEXT_TOKENS * WORDS_PER_TOKEN))
        before = int(len(other) * self._share)
        notes = write_notes(memory.experience.world).splitlines()
        return PromptKnowledge(wrap_notes("\n".join([*other[:before], *notes, *other[before:]])))


def write_other_text(words: int) -> list[str]:
    """Write text that has nothing to do with any task.

    Args:
        words: Number of words, about.

    Returns:
        The lines of the text, which is always the same.
    """
    rng = Random(0)
    lines: list[str] = []
    while sum(len(line.split()) for line in lines) < words:
        lines.append(
            f"- {rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)} {rng.choice(_TIMES)} "
            f"and {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}."
        )
    return lines


_SUBJECTS = ("The gardener", "A visitor", "The night guard", "My neighbor", "The choir", "A painter", "The cook")
_VERBS = ("looked for", "talked about", "took care of", "forgot", "asked about", "thought about", "found")
_OBJECTS = (
    "the old gate",
    "a warm coat",
    "the long table",
    "two chairs",
    "the weather",
    "a good book",
    "the small boat",
)
_TIMES = ("in the morning", "late at night", "before lunch", "on the way home", "after the game", "in the rain")
