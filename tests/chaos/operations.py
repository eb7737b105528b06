"""Promotions, rollbacks, revocations, consolidations and cancellations, while faults happen.

An operation whose answer is lost may have happened or not. It is repeated until it is answered, where that matters.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from looper.gym.generate import record_episodes
from looper.gym.workplaces import WORKPLACES
from looper.platform.client import Client
from looper.platform.domain.errors import Conflict, LooperError, Overloaded, StoreUnavailable
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from tests.chaos.cluster import ChaosCluster
from tests.chaos.skills import MarkedSkill
from tests.chaos.traffic import Ledger

RECIPE = Recipe(rank=8, alpha=16, learning_rate=5e-3, epochs=1, batch_size=4, max_seq_length=512)

PAUSE_S = 4.0
"""Mean time between two operations, in seconds."""

KEPT_VERSIONS = 2
"""Versions of a skill that are never revoked."""

MAX_UNFINISHED = 3
"""No more is submitted while this many consolidations have not ended."""


class Operations:
    """Changes skills and submits consolidations until it is stopped."""

    def __init__(
        self, cluster: ChaosCluster, keys: dict[str, str], skills: list[MarkedSkill], ledger: Ledger, seed: int
    ) -> None:
        """Prepare; nothing is done yet.

        Args:
            cluster: The cluster.
            keys: API key of each tenant.
            skills: Skills of all tenants.
            ledger: Where errors are written.
            seed: Decides what is done.
        """
        self._cluster, self._keys, self._skills, self._ledger = cluster, keys, skills, ledger
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.counts: Counter[str] = Counter()
        self.submitted: dict[str, str] = {}
        """Tenant of each consolidation that the API has accepted, by id."""
        self.cancelled: set[str] = set()
        """Consolidations whose cancellation was tried."""

    def __enter__(self) -> "Operations":
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for the last operation."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        operations: list[Callable[[], str]] = [self._promote, self._promote, self._roll_back, self._revoke, self._learn]
        while not self._stop.wait(self._rng.expovariate(1 / PAUSE_S)):
            operation = self._rng.choice(operations)
            try:
                outcome = operation()
            except (StoreUnavailable, Overloaded):
                outcome = "unavailable"
            except LooperError as error:
                self._ledger.report_error(f"{operation.__name__.strip('_')}: {type(error).__name__}: {error}")
                outcome = "failed"
            self.counts[f"{operation.__name__.strip('_')} {outcome}"] += 1

    def _client(self, tenant: str) -> Client:
        return Client(self._cluster.url, self._keys[tenant], timeout_s=30)

    def _promote(self) -> str:
        skill = self._rng.choice(self._skills)
        digest = self._rng.choice(skill.usable)
        with self._client(skill.name.tenant) as client:
            client.promote(skill.name.instance, digest)
        return "done"

    def _roll_back(self) -> str:
        skill = self._rng.choice(self._skills)
        with self._client(skill.name.tenant) as client:
            channels = client.skill(skill.name.instance).channels
            if channels.get("prod") in (None, next(iter(skill.usable))):
                return "skipped: there is no older version"
            client.rollback(skill.name.instance)
        return "done"

    def _revoke(self) -> str:
        skill = self._rng.choice(self._skills)
        if len(skill.usable) <= KEPT_VERSIONS:
            return "skipped: too few versions are left"
        digest = self._rng.choice(skill.usable)
        # A request that is sent before the revocation is confirmed may be answered by the version.
        skill.revoked_at[digest] = float("inf")
        while not self._stop.is_set():
            try:
                with self._client(skill.name.tenant) as client:
                    client.revoke(skill.name.instance, digest)
            except (StoreUnavailable, Overloaded):
                self._stop.wait(1)
            else:
                skill.revoked_at[digest] = time.monotonic()
                return "done"
        return "stopped"

    def _learn(self) -> str:
        """Upload new trajectories and submit a consolidation, or cancel one that was submitted."""
        unfinished = [job for job in self.submitted if not self._cluster.catalog.get_consolidation(job).state.is_final]
        if unfinished and self._rng.random() < 0.3:
            job = self._rng.choice(unfinished)
            self.cancelled.add(job)
            try:
                with self._client(self.submitted[job]) as client:
                    client.cancel(job)
            except Conflict:
                return "not cancelled: it ended in the meantime"
            return "cancelled"
        if len(unfinished) >= MAX_UNFINISHED:
            return "skipped: enough is unfinished"
        tenant = self._rng.choice(list(self._keys))
        workplace = self._rng.choice(list(WORKPLACES))
        file = Path(self._cluster.environment["LOOPER_CONFIG"]).parent / "episodes.jsonl"
        episodes = record_episodes(WORKPLACES[workplace], seed=self._rng.getrandbits(31), tasks=8)
        file.write_bytes(b"".join(episode.to_jsonl() for episode in episodes))
        instance = f"learner-{self._rng.randrange(3)}"
        with self._client(tenant) as client:
            client.ingest(instance, file)
            (job,) = client.consolidate([instance], recipe=RECIPE)
        self.submitted[job.id] = tenant
        return "submitted"

    def wait_until_ended(self, timeout_s: float) -> None:
        """Wait until every accepted consolidation has ended; report those that have not."""
        deadline = time.monotonic() + timeout_s
        catalog = self._cluster.catalog
        while unfinished := [id for id in self.submitted if not catalog.get_consolidation(id).state.is_final]:
            if time.monotonic() > deadline:
                for id in unfinished:
                    self._ledger.report_error(f"consolidation {id} is {catalog.get_consolidation(id).state} for ever")
                return
            time.sleep(1)

    def check(self) -> dict[str, int]:
        """Check that no consolidation was lost or done twice; return how they ended."""
        ends: Counter[str] = Counter()
        used: Counter[tuple[str, str]] = Counter()
        for id in self.submitted:
            job = self._cluster.catalog.get_consolidation(id)
            ends[job.state.value] += 1
            if job.state is ConsolidationState.FAILED:
                self._ledger.report_error(f"consolidation {id} was lost: {job.reason}")
            if job.state is ConsolidationState.CANCELLED and id not in self.cancelled:
                self._ledger.report_error(f"consolidation {id} was cancelled by nobody")
            if job.state is ConsolidationState.PUBLISHED:
                used.update((str(job.instance), batch) for batch in job.batches)
        for (instance, batch), times in used.items():
            if times > 1:
                self._ledger.report_error(f"batch {batch} of {instance} was consolidated {times} times")
        for tenant in self._keys:
            made = Counter(
                version.consolidation
                for name in self._cluster.catalog.list_instances(tenant)
                for version in self._cluster.catalog.list_versions(name)
            )
            for id, times in made.items():
                if times > 1:
                    self._ledger.report_error(f"consolidation {id} published {times} versions")
        return dict(ends)
