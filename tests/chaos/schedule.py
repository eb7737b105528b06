"""Which fault comes when. The same seed gives the same schedule."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduledFault:
    """A fault of the schedule."""

    name: str
    """Name of the fault in ``faults.FAULTS``."""
    duration_s: float
    """How long a fault lasts that does not end by itself, in seconds."""
    pause_s: float
    """Quiet time after the cluster has recovered, in seconds."""
    seed: int
    """Decides the fault's details, such as which process is killed."""


def plan_faults(seed: int, names: Sequence[str], count: int) -> list[ScheduledFault]:
    """Return ``count`` faults. Every name comes once before any comes twice, in an order that the seed decides."""
    rng, plan = random.Random(seed), list[ScheduledFault]()
    while len(plan) < count:
        for name in rng.sample(list(names), len(names)):
            plan.append(ScheduledFault(name, rng.uniform(3, 12), rng.uniform(3, 10), rng.getrandbits(32)))
    return plan[:count]
