"""Shorthand for tests of the queue, and a gate verdict for tests that publish."""

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage

SCORES = Scores(accuracy=0.5, loss=1.0, actions=4, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)


class QueueHarness:
    """A catalog, and short calls for what workers do with its queue."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._batch_count = 0

    def submit(
        self, *names: str, base: str = "b", recipe: Recipe | None = None, priority: int = 0
    ) -> list[Consolidation]:
        """Submit one consolidation of a new batch for each of the instances, which are created if necessary."""
        jobs = []
        for name in names:
            instance = InstanceName.parse(name)
            if instance.tenant not in self.catalog.list_tenants():
                self.catalog.create_tenant(instance.tenant)
            self.catalog.ensure_instance(instance)
            self._batch_count += 1
            self.catalog.add_batch(instance, f"b{self._batch_count}", source="x", trajectories=1)
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
        """Claim, and return the instances of the claimed consolidations in order."""
        jobs = self.catalog.claim(owner, stage, limit=limit, lease_s=60, tenant_limit=tenant_limit)
        return [str(job.instance) for job in jobs]

    def hand_over(self, state: ConsolidationState, owner: str = "me") -> None:
        """Hand over all consolidations that ``owner`` has leased."""
        for job in self.catalog.list_unfinished():
            if job.owner == owner:
                self.catalog.hand_over(job.id, owner, state)

    def expire_leases(self, owner: str) -> None:
        """Let the leases of ``owner`` expire, as if its process had died."""
        self.catalog.heartbeat([job.id for job in self.catalog.list_unfinished()], owner, lease_s=-1)

    def publish(self, job: Consolidation, digest: str, owner: str = "me") -> None:
        """Publish a version for a leased consolidation."""
        assert self.catalog.publish(job.id, owner, digest=digest, verdict=VERDICT, base_revision="r")

    def events(self, job: Consolidation) -> list[str]:
        """Return the texts of the consolidation's events."""
        return [event.what for event in self.catalog.list_events(consolidation=job.id)]
