"""The arms of the demo: the base model and the skill, each alone, beside notes, and beside retrieved episodes.

``run`` asks all of them the same held-out tasks.
"""

from collections.abc import Sequence
from enum import StrEnum

from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask
from looper.jobs.synthesis.contexts.episodes import EpisodeIndex, render_episodes
from looper.jobs.synthesis.contexts.notes import remove_notes, wrap_notes
from looper.platform.domain.example import Example, find_context

RETRIEVED_EPISODES = 4
"""How many earlier episodes an arm with retrieval has in its prompt."""


class Knowledge(StrEnum):
    """What an arm has in its prompt. The values are in ``demo.json``."""

    NONE = "none"
    """Nothing: the task alone."""
    NOTES = "notes"
    """The true rules of the workplace."""
    EPISODES = "episodes"
    """The most similar episodes of training tasks, by BM25."""


class KnowledgeLayer:
    """The notes and the earlier episodes of one instance."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Take the episodes that the instance's skill was trained on.

        Args:
            examples: The training examples of the instance.
        """
        self._index = EpisodeIndex([example for example in examples if not find_context(example.id)])

    def write(self, knowledge: Knowledge, task: WorkplaceTask) -> str:
        """Return what the layer puts into the prompt of a task.

        Args:
            knowledge: What the arm has.
            task: The task.

        Returns:
            Text for the end of the system message.
        """
        match knowledge:
            case Knowledge.NONE:
                return ""
            case Knowledge.NOTES:
                return wrap_notes(write_notes(task.workplace))
            case Knowledge.EPISODES:
                found = self._index.retrieve(task.request, RETRIEVED_EPISODES)
                return render_episodes([remove_notes(example.turns) for example in found])
