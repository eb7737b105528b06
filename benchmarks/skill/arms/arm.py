"""An arm of the benchmark: weights, and what stands in their prompt.

``registry.py`` lists the arms, and ``run.py`` lets each of them work on the same tasks.
"""

from dataclasses import dataclass
from enum import StrEnum

from looper.benchmarks.skill.arms.memory_system import MemorySystem, Writer


class Adapter(StrEnum):
    """Which weights answer. The values are in the results."""

    BASE = "base"
    """The base model."""
    NEUTRAL = "neutral adapter"
    """An adapter that was taught on the other worlds beside their notes and episodes: it knows how calls are written
    and how notes are read, and nothing of this world."""
    SKILL = "skill"
    """The skill of the world's instance, taught with the recipe of the demo."""
    BARE_TAUGHT = "bare-taught skill"
    """A skill that was taught on the same episodes without any notes or earlier episodes in its prompts."""
    WRONG_TENANT = "another tenant's skill"
    """The skill of a world of another tenant."""


@dataclass(frozen=True)
class Arm:
    """One arm."""

    adapter: Adapter
    """Which weights answer."""
    system: MemorySystem
    """What stands in the prompt."""
    writer: Writer
    """Who wrote it."""

    @property
    def knowledge(self) -> str:
        """Name of what stands in the prompt, with its writer if there are several; empty for nothing."""
        return f"{self.system.name} ({self.writer})" if len(self.system.writers) > 1 else self.system.name

    @property
    def name(self) -> str:
        """Name of the arm in the report."""
        return f"{self.adapter} + {self.knowledge}" if self.knowledge else str(self.adapter)
