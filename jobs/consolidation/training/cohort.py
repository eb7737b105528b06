"""The members of a trainer: which of them wait for their next step, and which take one now.

All ranks have the same cohort, because they change it only after a collective decision (see ``collective``).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.preference import EncodedPairs
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import FusedStep, select_for_one_pass, tokens_of_step
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.domain.consolidation import Consolidation, TrainingProgress


@dataclass(eq=False)
class Member:
    """One consolidation in a trainer."""

    job: Consolidation
    """The consolidation."""
    session: TrainingSession
    """Its adapter in training."""
    start: Lora | None
    """The version that it starts from; None in an instance's first session."""
    pairs: EncodedPairs | None
    """Its preference pairs; None if the recipe gives the preference loss no weight."""
    left_out: int = 0
    """Number of its training examples that could not be encoded."""
    joined_at: float = field(default_factory=time.monotonic)
    """When it got its place, by this process's monotonic clock. Only that of rank 0 counts."""
    tokens: int = 0
    """Tokens of its steps so far in this trainer. Who has had the fewest steps next; see ``Cohort.start_step``."""

    @property
    def training_s(self) -> float:
        """Time that it has held a place in this trainer and in others before, in seconds."""
        before = 0.0 if self.job.progress is None else self.job.progress.training_s
        return before + time.monotonic() - self.joined_at


@dataclass
class StepGroup:
    """Members whose next step is computed together."""

    members: list[Member]
    """All members whose losses are in ``step``."""
    step: FusedStep
    """The computation, pass by pass."""
    dropped: list[Member] = field(default_factory=list)
    """Members that left after the step began, so they do not take it."""

    @property
    def remaining(self) -> list[Member]:
        """The members that will take the step."""
        return [member for member in self.members if member not in self.dropped]


@dataclass
class Cohort:
    """All members on one base model."""

    base: SharedBase
    """The base model."""
    waiting: list[Member] = field(default_factory=list)
    """Members that wait for their next step. At equal shares, the one that has waited longest is first."""
    in_progress: list[StepGroup] = field(default_factory=list)
    """Steps that have begun. Only the last one computes; those before it paused for new members."""
    due: list[Member] = field(default_factory=list)
    """Members whose checkpoints are to be written."""
    saving: Member | None = None
    """Member whose checkpoint is being written, while training goes on. It may have left."""

    @property
    def members(self) -> list[Member]:
        """All members, waiting or in a step."""
        return [*self.waiting, *(member for group in self.in_progress for member in group.remaining)]

    def add(self, new: Sequence[Member]) -> None:
        """Add the ``new`` members and start their first step before the current step continues."""
        served = min((member.tokens for member in self.members), default=0)
        for member in new:
            member.tokens = served  # with less, it would take all steps until it had as many as the others
        self.waiting = [*new, *self.waiting]
        self._start_step(len(new))

    def start_step(self) -> None:
        """Start the next step of as many waiting members as fit into one pass.

        The members that have had the fewest tokens come first. So one with large batches does not slow the others down
        more than one with small batches: it takes fewer steps.
        """
        self.waiting.sort(key=lambda member: member.tokens)
        self._start_step(len(self.waiting))

    def _start_step(self, candidates: int) -> None:
        sessions = [member.session for member in self.waiting[:candidates]]
        count = len(select_for_one_pass(sessions, self.base.max_tokens_per_pass))
        members, self.waiting = self.waiting[:count], self.waiting[count:]
        for member in members:
            member.tokens += tokens_of_step(member.session)
        self.in_progress.append(StepGroup(members, FusedStep(self.base, [member.session for member in members])))

    def drop(self, leaving: Sequence[Member]) -> None:
        """Remove the ``leaving`` members. They take no further step, not even the one in progress."""
        self.waiting = [member for member in self.waiting if member not in leaving]
        for group in self.in_progress:
            group.dropped += [member for member in group.members if member in leaving]
        for member in leaving:
            member.session.close()


def report_progress(member: Member, trainer: TrainerContext, *, saved: bool = False) -> None:
    """Write the progress of a member to the catalog.

    Args:
        member: The member.
        trainer: Gives the catalog.
        saved: Whether a checkpoint was just written, which resets the number of attempts.

    Raises:
        Conflict: If the consolidation was cancelled, or another process holds it by now.
    """
    session = member.session
    progress = TrainingProgress(
        step=session.step,
        steps=session.steps,
        loss=session.loss,
        training_s=round(member.training_s, 1),
        left_out=member.left_out,
        learning_rate=session.recipe.learning_rate,
    )
    trainer.catalog.report_progress(member.job.id, trainer.owner, progress, checkpointed=saved)
