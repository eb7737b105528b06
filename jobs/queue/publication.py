"""The last stage of a consolidation: the gate judges the candidate, which is then published or rejected.

With too little evidence for either it is published for the channel ``canary``, and ``prod`` does not move.

The queue worker calls ``conclude`` for each consolidation whose training has ended.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.checkpoint import Candidate, find_kept_start, load_candidate
from looper.jobs.gate.judge import judge_candidate
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.scores import GateVerdict
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray")
"""Libraries whose versions a manifest records."""


def require_base(job: Consolidation, bases: Collection[str]) -> None:
    """Check that the base model of ``job`` is one of ``bases``, those that are running.

    Raises:
        InvalidInput: It is not.
    """
    if job.base not in bases:
        raise InvalidInput(
            f"base model {job.base!r} is not one that is running ({', '.join(bases)}): submit the consolidation again"
        )


@dataclass(frozen=True)
class Publisher:
    """Judges candidates and publishes those that it does not reject."""

    catalog: Catalog
    """Records the verdict, and the version that ``prod`` points to."""
    store: ObjectStore
    """Has the candidates and receives the adapters."""
    owner: str
    """Holder of the leases."""
    bases: Mapping[str, BaseModelSource]
    """The base models, by name."""
    gate: GateSettings
    """Limits of the gate."""

    def conclude(self, job: Consolidation) -> None:
        """Judge the candidate of ``job``, publish or reject it, and delete the checkpoints.

        A repetition after a crash leads to the same digest, because nothing in the adapter depends on the clock.

        Args:
            job: A consolidation that ``owner`` has leased in the last stage.

        Raises:
            Conflict: If it was cancelled, or another process holds it by now.
            InvalidInput: If its base model is no longer one of the cluster.
            StoreUnavailable: If the object store or the catalog is down or full.
        """
        require_base(job, self.bases)
        candidate = load_candidate(self.store, job.id)
        verdict = judge_candidate(candidate.scores, self.gate)
        if verdict.passed or verdict.undecided:
            self._publish(job, candidate, verdict)
        else:
            self.catalog.reject(job.id, self.owner, verdict)
        self.store.delete(keys.checkpoints(job.id))

    def _publish(self, job: Consolidation, candidate: Candidate, verdict: GateVerdict) -> None:
        revision = read_base_revision(self.bases[job.base].on_this_node(weights=False))
        manifest = Manifest(
            instance=str(job.instance),
            base=job.base,
            base_revision=revision,
            parent=job.parent,
            consolidation=job.id,
            training_data=job.batches,
            recipe=job.trained_recipe,
            start=find_kept_start(self.store, job.id),
            verdict=verdict,
            libraries=_library_versions(),
        )
        files = AdapterFiles(candidate.weights, candidate.config, manifest.to_bytes())
        digest = adapters.publish(self.store, job.instance.tenant, files)
        self.store.put(keys.strategy_state(job.instance, digest), candidate.strategy_state)
        if candidate.marks is not None:
            self.store.put(keys.high_water_marks(job.instance, digest), candidate.marks)
        self.catalog.publish(
            job.id,
            self.owner,
            digest=digest,
            verdict=verdict,
            base_revision=revision,
            canary_share=self.gate.canary_share,
        )


@cache
def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}
