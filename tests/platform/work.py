"""The queue as its tests speak of it."""

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import (
    Consolidation,
    ConsolidationState,
    GateVerdict,
    QueueStage,
    Recipe,
    Scores,
)
from looper.platform.domain.names import InstanceName

SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


class Work:
    """A queue, and short words for what is done to it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.batches = 0

    def submit(
        self, *names: str, base: str = "b", recipe: Recipe | None = None, priority: int = 0
    ) -> list[Consolidation]:
        jobs = []
        for name in names:
            instance = InstanceName.parse(name)
            if instance.tenant not in self.catalog.tenants():
                self.catalog.create_tenant(instance.tenant)
            self.catalog.ensure_instance(instance)
            self.batches += 1
            self.catalog.add_batch(instance, f"b{self.batches}", source="x", trajectories=1)
            jobs.append(self.catalog.submit(instance, base=base, recipe=recipe or Recipe(), priority=priority))
        return jobs

    def claim(
        self,
        owner: str = "me",
        stage: QueueStage = QueueStage.SYNTHESIS,
        *,
        limit: int = 99,
        tenant_limit: int | None = None,
    ) -> list[str]:
        """The instances of what was claimed, in order."""
        jobs = self.catalog.claim(owner, stage, limit=limit, lease_s=60, tenant_limit=tenant_limit)
        return [str(job.instance) for job in jobs]

    def hand_over(self, state: ConsolidationState, owner: str = "me") -> None:
        for job in self.catalog.unfinished():
            if job.owner == owner:
                self.catalog.hand_over(job.id, owner, state)

    def die(self, owner: str) -> None:
        """Let the leases of ``owner`` run out."""
        self.catalog.heartbeat([job.id for job in self.catalog.unfinished()], owner, lease_s=-1)

    def publish(self, job: Consolidation, digest: str, owner: str = "me") -> None:
        assert self.catalog.publish(job.id, owner, digest=digest, verdict=VERDICT, base_revision="r")

    def events(self, job: Consolidation) -> list[str]:
        return [event.what for event in self.catalog.events(consolidation=job.id)]
