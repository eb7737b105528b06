"""What a trainer's worker works with: the base model, the catalog and the object store.

``training_run`` makes one in each worker and passes it to ``trainer.run_trainer``.
"""

from dataclasses import dataclass, field

import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.job_limits import JobLimits
from looper.jobs.consolidation.training.suspects import Suspects
from looper.jobs.queue.progress import ProgressCounter
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore


@dataclass(frozen=True)
class TrainerContext:
    """One base model in memory, catalog and object store, and the name under which this trainer leases its jobs."""

    base: SharedBase
    """The base model of all members."""
    catalog: Catalog
    """Only rank 0 uses it."""
    store: ObjectStore
    """All ranks read from it; only rank 0 writes."""
    owner: str
    """Holder of the leases."""
    max_rank: int
    """Largest LoRA rank that the servers accept."""
    limits: JobLimits = field(default_factory=JobLimits)
    """What one consolidation may take."""
    progress: ProgressCounter = field(default_factory=ProgressCounter)
    """Counts what this worker advances; the leases depend on it."""
    suspects: Suspects = field(default_factory=Suspects)
    """Says whose work is in progress, for the case that this process dies of it."""

    def __post_init__(self) -> None:
        """Count each pass over the base model as progress."""
        self.base.on_pass = self.progress.advance

    @property
    def is_rank0(self) -> bool:
        """Whether this worker decides and writes."""
        return dist.get_rank() == 0
