"""A trainer's members, the same on all ranks: who waits for its next step, and whose step is under way."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from looper.jobs.consolidation.lora import Lora
from looper.jobs.consolidation.preference import Contrasts
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.step import Step, next_together
from looper.jobs.consolidation.tenant import Tenant
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Progress
from looper.platform.objectstore import ObjectStore


@dataclass(frozen=True)
class Trainer:
    """One base in memory, catalog and store, and the name that holds the claims."""

    base: SharedBase
    catalog: Catalog
    store: ObjectStore
    owner: str
    max_rank: int
    """Largest rank that the server takes."""

    @property
    def leads(self) -> bool:
        return dist.get_rank() == 0


@dataclass(frozen=True, eq=False)
class Member:
    """A consolidation in training."""

    job: Consolidation
    tenant: Tenant
    start: Lora | None
    contrasts: Contrasts | None
    """None if the recipe gives a preference loss no weight."""


@dataclass
class StepGroup:
    """Members whose next step is under way, computed together."""

    members: list[Member]
    step: Step
    lost: list[Member] = field(default_factory=list)
    """Of them, who will not take it: cancelled meanwhile, or another's."""

    @property
    def staying(self) -> list[Member]:
        return [member for member in self.members if member not in self.lost]


@dataclass
class Cohort:
    """All members on one base."""

    base: SharedBase
    waiting: list[Member] = field(default_factory=list)
    """For their next step, the longest first."""
    under_way: list[StepGroup] = field(default_factory=list)
    """The last is worked at; those before it have made room for newcomers."""

    @property
    def members(self) -> list[Member]:
        return [*self.waiting, *(member for group in self.under_way for member in group.staying)]

    def join(self, newcomers: Sequence[Member]) -> None:
        """Begin their first step, before that which is under way goes on."""
        self.waiting = [*newcomers, *self.waiting]
        self.begin(len(newcomers))

    def begin(self, first: int) -> None:
        """The next step of as many of the ``first`` that wait as fill a pass; they wait no more."""
        tenants = [member.tenant for member in self.waiting[:first]]
        count = len(next_together(tenants, self.base.tokens_at_once))
        members, self.waiting = self.waiting[:count], self.waiting[count:]
        self.under_way.append(StepGroup(members, Step(self.base, [member.tenant for member in members])))

    def drop(self, gone: Sequence[Member]) -> None:
        """Let members leave: they take no further step, also not the one under way."""
        self.waiting = [member for member in self.waiting if member not in gone]
        for group in self.under_way:
            group.lost += [member for member in group.members if member in gone]
        for member in gone:
            member.tenant.close()


def report_progress(member: Member, trainer: Trainer, *, saved: bool = False) -> None:
    """Write to the catalog how far ``member`` is. Raises Conflict if it was cancelled or is another's by now."""
    tenant = member.tenant
    progress = Progress(step=tenant.step, steps=tenant.steps, loss=tenant.loss)
    trainer.catalog.progress(member.job.id, trainer.owner, progress, saved=saved)
