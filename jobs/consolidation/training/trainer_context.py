"""What a trainer's worker works with: the base model, the catalog and the object store.

``training_run`` makes one in each worker and passes it to ``trainer.run_trainer``.
"""

from dataclasses import dataclass

import torch.distributed as dist

from looper.jobs.consolidation.model.shared_base import SharedBase
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

    @property
    def is_rank0(self) -> bool:
        """Whether this worker decides and writes."""
        return dist.get_rank() == 0
