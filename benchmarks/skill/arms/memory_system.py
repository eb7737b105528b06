"""What every knowledge layer of the benchmark is: it learns from recorded episodes, and helps with a task.

``registry.py`` lists the knowledge layers; each one is a small module of this package.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import PromptKnowledge, TaskPlayer
from looper.benchmarks.skill.worlds import Experience
from looper.gym.episode import EpisodeResult
from looper.gym.workplace import WorkplaceTask


class Writer(StrEnum):
    """Who writes a memory. The values are in the results."""

    RECORDED = "recorded"
    """Nobody: the recorded episodes, or the notes of their prompts, are used as they are."""
    MODEL = "model"
    """The base model itself, by the system's own procedure."""
    ORACLE = "oracle"
    """Someone who knows the true rules, in the system's form: how well the system does with a perfect memory."""


@dataclass(frozen=True)
class Memory:
    """What a knowledge layer has for a world."""

    experience: Experience
    """The recorded episodes."""
    writer: Writer
    """Who wrote the entries."""
    entries: tuple[str, ...] = ()
    """What was written, in the system's own form."""


class MemorySystem(ABC):
    """A knowledge layer.

    Attributes:
        name: Its name in the report.
        writers: Who can write its memory; a row of the report for each.
        is_robustness: Whether the prompt disagrees with what the agent has learned, on purpose. Such a row shows what
            an arm does then, and does not compete for the best knowledge.
    """

    name: str
    writers: tuple[Writer, ...] = (Writer.RECORDED,)
    is_robustness: bool = False

    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        """Write the memory of a world, before any task.

        Args:
            experience: The recorded episodes.
            writer: Who writes.
            chat: The base model.

        Returns:
            The entries of the memory.
        """
        return ()

    @abstractmethod
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge | None:
        """Return what the layer puts into the prompt of a task.

        Args:
            task: The task.
            memory: The memory of the task's world.

        Returns:
            The knowledge. None: nothing, not even how calls are written.
        """

    def play(self, task: WorkplaceTask, memory: Memory, player: TaskPlayer) -> EpisodeResult:
        """Let the model work on a task with this knowledge.

        Args:
            task: The task.
            memory: The memory of the task's world.
            player: The model.

        Returns:
            The episode that counts.
        """
        return player.play(task, self.recall(task, memory))
