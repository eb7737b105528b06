"""What stages hand on: a trajectory on its way to an example, and what was found out about it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from looper.platform.domain.trajectory import Step, Trajectory


class Grade(StrEnum):
    """How an episode ended, and how much that says. Success is weighed, not trusted."""

    VERIFIED = "verified"
    """The world was changed, and checked to be as it should."""
    STATED = "stated"
    """Success, judged by what the agent said."""
    VACUOUS = "vacuous"
    """Success where nothing was to be changed: doing nothing would have passed as well."""
    UNLABELLED = "unlabelled"
    """Nobody judged the episode."""
    FAILED = "failed"
    ENVIRONMENT = "environment"
    """It failed because a tool broke, not because of what the agent did."""


class Error(StrEnum):
    """Why a tool's answer is an error."""

    TRANSIENT = "transient"
    """The same call would have worked at another moment: a timeout, a rate limit, a lost connection."""
    CAUSAL = "causal"
    """The call was wrong: malformed, with a wrong argument, against a rule or out of order."""
    INFORMATIVE = "informative"
    """The call was right and the answer is that something is not so: not found, not available, not allowed."""
    ENVIRONMENT = "environment"
    """The tool itself is broken: its own code failed."""


@dataclass(frozen=True)
class StageVerdict:
    """What a stage found, and why it dropped or changed something."""

    stage: str
    what: str
    """One stable word, such as ``loop``."""
    detail: str
    """One line for people."""
    step: int | None = None
    """Where in the source trajectory, or None for the whole."""


@dataclass(frozen=True)
class Placed:
    """A step under way."""

    step: Step
    place: int
    """Its index in the source trajectory."""
    weight: float = 1.0
    """How much of it is learned, from 0 (context only) to 1. Counts for the agent's steps alone."""
    error: Error | None = None
    """Of a tool's answer."""
    segment: int = 0
    """Which stretch of work it belongs to: counted from 0, a new one with each request of the user."""


@dataclass(frozen=True)
class Draft:
    """An episode under way. Stages return a new one; what they drop, they name in ``verdicts``."""

    source: Trajectory
    """As it was read."""
    steps: tuple[Placed, ...]
    labelled: bool
    """Whether any trajectory of its source file has a label: beside labelled ones, a missing label means not judged."""
    grade: Grade | None = None
    weight: float = 1.0
    """Of the whole example."""
    verdicts: tuple[StageVerdict, ...] = ()
    rejected: str | None = None
    """Why it is no example, in one stable word, or None."""

    @classmethod
    def of(cls, source: Trajectory, *, labelled: bool) -> Self:
        return cls(source, tuple(Placed(step, place) for place, step in enumerate(source.steps)), labelled)

    def with_steps(self, steps: tuple[Placed, ...], *verdicts: StageVerdict) -> Self:
        return replace(self, steps=steps, verdicts=(*self.verdicts, *verdicts))

    def reject(self, stage: str, what: str, detail: str) -> Self:
        """The first reason stands."""
        if self.rejected:
            return self
        return replace(self, rejected=what, verdicts=(*self.verdicts, StageVerdict(stage, what, detail)))
