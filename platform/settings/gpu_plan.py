"""Divides a cluster's GPUs between engines and trainers: whole ones if there are enough, shares of each if not.

``serve/deployment`` places engines by it and ``jobs/consolidation`` trainers, each when it starts. An engine takes its
memory first; a trainer sizes its passes by what is free then. So trainers yield to engines.

Pools and trainers may name a type of GPU (``accelerator_type``). Those that name none may be on any.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.models import Settings
from looper.platform.settings.roles import require_role
from looper.platform.settings.serving import PoolSettings

ENGINE_SHARE = 0.5
"""Part of a GPU that an engine has beside a trainer."""

ENGINE_MEMORY = 0.9
"""Part of its share of a GPU's memory that an engine fills with weights, adapters and KV cache: vLLM's own default."""


MAX_PARALLEL = 64
"""Maximum number of GPUs that an engine is divided over, in each way."""

_TYPE_PREFIX = "accelerator_type:"
"""A node of Ray has a resource of this name and its type of GPUs."""


@dataclass(frozen=True)
class GpuPlan:
    """GPUs as Ray counts them. 0: without a GPU."""

    engine: float
    """Part of each of an engine's GPUs that is the engine's, except on ``whole`` types."""
    trainer: float
    """Part of a GPU that each worker of a trainer has."""
    whole: frozenset[str] = frozenset()
    """Types of GPUs that engines have whole, because no trainer is placed on them."""

    def engine_share(self, pool: PoolSettings) -> float:
        """Return the part of each of its GPUs that an engine of a pool has.

        Args:
            pool: Settings of the pool.

        Returns:
            From 0, without a GPU, to 1.
        """
        return 1 if pool.accelerator_type in self.whole else self.engine

    def __str__(self) -> str:
        """Return the plan in words."""
        if not self.engine:
            return "engines and trainers run on CPUs: there is no GPU"
        if self.engine == 1:
            return "engines and trainers have GPUs of their own"
        shares = f"engines and trainers share GPUs: {self.engine:.0%} of each for an engine, the rest for a trainer"
        return f"{shares}; engines on {', '.join(sorted(self.whole))} have whole ones" if self.whole else shares


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


def require_type(accelerator_type: str | None) -> dict[str, float]:
    """Return the resource that keeps an engine or a trainer on GPUs of a type: none of it is used up.

    Args:
        accelerator_type: The type, as Ray names it. None: any.

    Returns:
        Resources for Ray, by name.
    """
    return {f"{_TYPE_PREFIX}{accelerator_type}": 0.001} if accelerator_type else {}


def count_by_type(nodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Count the GPUs of a cluster.

    Args:
        nodes: The nodes, as ``ray.nodes()`` returns them.

    Returns:
        Number of GPUs by type; "" for those whose type Ray does not know.
    """
    counts: Counter[str] = Counter()
    for node in nodes:
        resources = node["Resources"]
        if node["Alive"] and (gpus := resources.get("GPU", 0)):
            types = (name.removeprefix(_TYPE_PREFIX) for name in resources if name.startswith(_TYPE_PREFIX))
            counts[next(types, "")] += gpus
    return dict(counts)


def plan_gpus(gpus: Mapping[str, float], settings: Settings) -> GpuPlan:
    """Divide the GPUs of a cluster.

    Args:
        gpus: GPUs of the cluster by type, as ``count_by_type`` counts them.
        settings: Give the number of engines, of trainers and of their workers, of all base models, and the types of
            GPUs that they name.

    Returns:
        The plan.

    Raises:
        InvalidInput: There are GPUs, but not enough, or none of a type that the settings name.
    """
    total = sum(gpus.values())
    needed, workers, spans_gpus = Counter[str | None](), Counter[str | None](), False
    for of_base in map(settings.for_base, settings.base_names):
        for pool in of_base.serve.all_pools:
            needed[pool.accelerator_type] += pool.replicas * count_gpus(of_base.serve.engine)
        training = of_base.consolidation
        workers[training.accelerator_type] += training.max_trainers * training.num_workers
        spans_gpus |= training.num_workers > 1
    for accelerator_type in {*needed, *workers} - {None}:
        if not gpus.get(accelerator_type or ""):
            raise InvalidInput(
                f"accelerator_type is {accelerator_type!r}, and the cluster has {_describe(gpus)}: name a type that it "
                "has, or add such GPUs"
            )
    if total < 1:
        return GpuPlan(0, 0)
    engines = needed.total()
    short = [name for name, count in needed.items() if name and count > gpus[name]]
    if engines > total or short:
        which = f"{needed[short[0]]} GPUs of type {short[0]}" if short else f"{engines} GPUs"
        raise InvalidInput(
            f"the engines need {which}, and the cluster has {_describe(gpus)}: lower serve.replicas or "
            "serve.engine.tensor_parallel_size, or add GPUs"
        )
    if all(rivals + trained <= places for _, rivals, trained, places in _list_places(gpus, needed, workers)):
        return GpuPlan(1, 1)
    for accelerator_type, rivals, trained, places in _list_places(gpus, needed, workers):
        # Two workers on one GPU cannot talk to each other by NCCL, and Ray may place them so.
        is_crowded = rivals + trained > places
        if is_crowded and (spans_gpus or rivals * ENGINE_SHARE + trained * (1 - ENGINE_SHARE) > places):
            raise InvalidInput(
                f"engines and trainers need {rivals + trained} GPUs"
                f"{f' of type {accelerator_type}' if accelerator_type else ''}, and the cluster has "
                f"{_describe(gpus)}: lower consolidation.num_workers or consolidation.max_trainers, or add GPUs"
            )
    apart = frozenset(name for name in needed if name and name not in workers)
    return GpuPlan(ENGINE_SHARE, 1 - ENGINE_SHARE, frozenset() if None in workers else apart)


def _list_places(
    gpus: Mapping[str, float], engines: Mapping[str | None, int], workers: Mapping[str | None, int]
) -> Iterator[tuple[str | None, int, int, float]]:
    """Yield each type of GPUs that trainers name, None for any: engines and workers that may be there, and GPUs."""
    for name in workers:
        if name is None:
            yield None, sum(engines.values()), sum(workers.values()), sum(gpus.values())
        else:  # those that name no type may be on these GPUs too
            yield (
                name,
                engines.get(name, 0) + engines.get(None, 0),
                workers[name] + workers.get(None, 0),
                gpus[name],
            )


def missing_gpus(gpus: Mapping[str, float], settings: Settings) -> list[dict[str, float]]:
    """Return the GPUs that have to come before ``plan_gpus`` can divide them, for Ray's autoscaler.

    One of each type that the settings name has to come, even if no engine runs until there is load: it is measured.

    Args:
        gpus: GPUs of the cluster by type, as ``count_by_type`` counts them.
        settings: As for ``plan_gpus``.

    Returns:
        Resources of each GPU, by name.
    """
    engines, trainers = require_role(settings.roles.engines), require_role(settings.roles.trainers)
    wanted = list[tuple[str | None, int, dict[str, float]]]()
    for of_base in map(settings.for_base, settings.base_names):
        training, per_engine = of_base.consolidation, count_gpus(of_base.serve.engine)
        wanted += [(pool.accelerator_type, pool.replicas * per_engine, engines) for pool in of_base.serve.all_pools]
        if training.accelerator_type:
            wanted.append((training.accelerator_type, training.max_trainers * training.num_workers, trainers))
    free, missing = Counter({name: int(count) for name, count in gpus.items()}), list[dict[str, float]]()
    for accelerator_type, count, role in wanted:
        if accelerator_type:
            count, there = max(1, count), free[accelerator_type]
            free[accelerator_type] = max(0, there - count)
        else:
            there = free.total() or count  # without any GPU yet, the cluster may be one of CPUs
        missing += [{"GPU": 1.0, **require_type(accelerator_type), **role}] * (count - there)
    return missing


def plan_for_training(gpus: Mapping[str, float], settings: Settings) -> GpuPlan:
    """Plan like ``plan_gpus``, later than at the deployment: nodes that were idle may have gone and will come again.

    Args:
        gpus: GPUs of the cluster by type, as ``count_by_type`` counts them.
        settings: As for ``plan_gpus``.

    Returns:
        How the GPUs that are there are divided. If they are not enough, how those are divided that come when something
        waits for them.

    Raises:
        InvalidInput: Those would not be enough either.
    """
    try:
        return plan_gpus(gpus, settings)
    except InvalidInput:
        expected = dict(gpus)
        for resources in missing_gpus(gpus, settings):
            types = (name.removeprefix(_TYPE_PREFIX) for name in resources if name.startswith(_TYPE_PREFIX))
            name = next(types, "")
            expected[name] = expected.get(name, 0.0) + resources["GPU"]
        return plan_gpus(expected, settings)


def _describe(gpus: Mapping[str, float]) -> str:
    """Return "3 (2 A100, 1 L4)", or "3" if no type is known."""
    types = ", ".join(f"{count:g} {name}" for name, count in sorted(gpus.items()) if name)
    return f"{sum(gpus.values()):g}{f' ({types})' if types else ''}"
