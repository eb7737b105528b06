"""The data that synthesis stages pass on: an episode on its way to a training example, and what was found out about it.

Stages (``stages/`` and ``llm/``) take a ``Draft`` and return a new one; ``pipeline/stages.py`` calls them in order.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from looper.platform.domain.trajectory import Step, Trajectory


class Grade(StrEnum):
    """How an episode ended, and how reliable that information is. A success gets a weight; it is not simply trusted.

    The values appear in reports and stay as they are, including the spelling of "unlabelled".
    """

    VERIFIED = "verified"
    """The episode changed the environment, and a check found the expected state."""
    STATED = "stated"
    """A success, judged only by what the agent said."""
    VACUOUS = "vacuous"
    """A success of a task that needed no change: an agent that does nothing would have passed as well."""
    UNLABELED = "unlabelled"
    """The episode has no label: nobody judged whether it succeeded."""
    FAILED = "failed"
    """The agent failed."""
    ENVIRONMENT = "environment"
    """The episode failed because a tool was broken, not because of what the agent did."""


class ErrorKind(StrEnum):
    """Why a tool result is an error."""

    TRANSIENT = "transient"
    """The same call would have worked at another time: a timeout, a rate limit, a lost connection."""
    CAUSAL = "causal"
    """The call was wrong: malformed, with a wrong argument, against a rule or out of order."""
    INFORMATIVE = "informative"
    """The call was right, and the result is a negative answer: not found, not available, not allowed."""
    ENVIRONMENT = "environment"
    """The tool itself is broken: its own code failed."""


@dataclass(frozen=True)
class StageVerdict:
    """One finding of a stage, or the reason why it dropped or changed something."""

    stage: str
    """Name of the stage."""
    code: str
    """One stable word that reports count, such as ``loop``."""
    detail: str
    """One line for people."""
    step: int | None = None
    """Index of the step in the source trajectory, or None if the finding is about the whole trajectory."""


@dataclass(frozen=True)
class DraftStep:
    """One step of a draft."""

    step: Step
    """The step, possibly changed by stages."""
    source_index: int
    """Index of the step in the source trajectory."""
    weight: float = 1.0
    """Loss weight from 0 (context only) to 1. It has an effect on steps of the agent only."""
    error: ErrorKind | None = None
    """Kind of error of a tool result, or None if the result is no error."""
    segment: int = 0
    """Number of the work segment, counted from 0. A new segment starts with each request of the user."""


@dataclass(frozen=True)
class Draft:
    """An episode on its way to an example. Stages return a new draft and explain in ``verdicts`` what they changed."""

    source: Trajectory
    """The trajectory as it was read."""
    steps: tuple[DraftStep, ...]
    """The steps that are left."""
    has_labels: bool
    """Whether any trajectory of the same source file has a success label.

    If others have one, a missing label means that nobody judged this episode.
    """
    grade: Grade | None = None
    """How the episode ended, or None before the grade stage."""
    weight: float = 1.0
    """Loss weight of the whole example."""
    verdicts: tuple[StageVerdict, ...] = ()
    """Findings of the stages so far, in order."""
    rejected: str | None = None
    """The reason why this draft becomes no example, as one stable word, or None if it becomes one."""

    @classmethod
    def from_trajectory(cls, source: Trajectory, *, has_labels: bool) -> Self:
        """Create the draft of a trajectory, before any stage.

        Args:
            source: The trajectory.
            has_labels: Whether any trajectory of the same source file has a success label.

        Returns:
            A draft with all steps, each with weight 1.
        """
        return cls(source, tuple(DraftStep(step, index) for index, step in enumerate(source.steps)), has_labels)

    def with_steps(self, steps: tuple[DraftStep, ...], *verdicts: StageVerdict) -> Self:
        """Replace the steps and add findings.

        Args:
            steps: The new steps.
            *verdicts: Findings to append.

        Returns:
            The changed draft.
        """
        return replace(self, steps=steps, verdicts=(*self.verdicts, *verdicts))

    def reject(self, stage: str, code: str, detail: str) -> Self:
        """Mark the draft as rejected. The first rejection stays; later ones have no effect.

        Args:
            stage: Name of the stage that rejects it.
            code: The reason, as one stable word.
            detail: The reason in one line for people.

        Returns:
            The rejected draft.
        """
        if self.rejected:
            return self
        return replace(self, rejected=code, verdicts=(*self.verdicts, StageVerdict(stage, code, detail)))
