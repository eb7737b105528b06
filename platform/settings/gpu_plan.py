"""Divides a cluster's GPUs between engines and trainers: whole ones if there are enough, shares of each if not.

``serve/deployment`` places engines by it and ``jobs/consolidation`` trainers, each when it starts. An engine takes its
memory first; a trainer sizes its passes by what is free then. So trainers yield to engines.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.models import Settings

ENGINE_SHARE = 0.5
"""Part of a GPU that an engine has beside a trainer."""

ENGINE_MEMORY = 0.9
"""Part of its share of a GPU's memory that an engine fills with weights, adapters and KV cache: vLLM's own default."""


MAX_PARALLEL = 64
"""Maximum number of GPUs that an engine is divided over, in each way."""


@dataclass(frozen=True)
class GpuPlan:
    """GPUs as Ray counts them. 0: without a GPU."""

    engine: float
    """Part of each of an engine's GPUs that is the engine's."""
    trainer: float
    """Part of a GPU that each worker of a trainer has."""

    def __str__(self) -> str:
        """Return the plan in words."""
        if not self.engine:
            return "engines and trainers run on CPUs: there is no GPU"
        if self.engine == 1:
            return "engines and trainers have GPUs of their own"
        return f"engines and trainers share GPUs: {self.engine:.0%} of each for an engine, the rest for a trainer"


def count_gpus(options: Mapping[str, object]) -> int:
    """Return how many GPUs one engine takes.

    Args:
        options: ``serve.engine`` of the settings.

    Raises:
        InvalidInput: A number is not one.
    """
    total = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        size = options.get(name, 1)
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_PARALLEL:
            raise InvalidInput(f"serve.engine: {name} is {size!r}, not a number from 1 to {MAX_PARALLEL}")
        total *= size
    return total


def plan_gpus(gpus: float, settings: Settings) -> GpuPlan:
    """Divide the GPUs of a cluster.

    Args:
        gpus: GPUs of the cluster.
        settings: Give the number of engines, of trainers and of their workers.

    Returns:
        The plan.

    Raises:
        InvalidInput: There are GPUs, but not enough.
    """
    if gpus < 1:
        return GpuPlan(0, 0)
    engines = sum(pool.replicas for pool in settings.serve.all_pools) * count_gpus(settings.serve.engine)
    if engines > gpus:
        raise InvalidInput(
            f"the engines need {engines} GPUs, and the cluster has {gpus:g}: lower serve.replicas or "
            "serve.engine.tensor_parallel_size, or add GPUs"
        )
    trainers = settings.consolidation.max_trainers * settings.consolidation.num_workers
    if engines + trainers <= gpus:
        return GpuPlan(1, 1)
    # Two workers on one GPU cannot talk to each other by NCCL, and Ray may place them so.
    if settings.consolidation.num_workers > 1 or engines * ENGINE_SHARE + trainers * (1 - ENGINE_SHARE) > gpus:
        raise InvalidInput(
            f"engines and trainers need {engines + trainers} GPUs, and the cluster has {gpus:g}: lower "
            "consolidation.num_workers or consolidation.max_trainers, or add GPUs"
        )
    return GpuPlan(ENGINE_SHARE, 1 - ENGINE_SHARE)
