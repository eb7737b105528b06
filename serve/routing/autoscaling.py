"""Decides how many replicas a pool of engines needs. Ray Serve's controller calls it as an autoscaling policy.

An engine is full not only when it runs the maximum number of sequences. One that serves more adapters than it has slots
makes their requests wait while it could run more sequences, and another replica adds slots. Ray Serve applies its own
delays and limits to the number that is returned here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any, Self

TARGET_UTILIZATION = 0.8
"""Share of its sequences and slots that a replica uses on average. The rest is reserved for bursts."""

UPSCALE_DELAY_S, DOWNSCALE_DELAY_S = 2.0, 60.0
"""Time for which Ray Serve must be asked for more, or for fewer, replicas before it changes anything, in seconds."""

Stats = Mapping[str, Mapping[Any, float]]
"""Numbers that replicas report: by the name of the number, then by replica."""


@dataclass(frozen=True)
class ReplicaLoad:
    """What a replica reports about itself every few seconds."""

    sequences: float
    """Number of sequences that run or wait."""
    adapters: float
    """Number of different adapters among them."""
    max_num_seqs: float
    """Number of sequences that the replica runs at a time."""
    slots: float
    """Number of adapters that the replica runs at a time."""

    @classmethod
    def from_stats(cls, stats: Stats) -> list[Self]:
        """Collect the loads of all replicas.

        Args:
            stats: The numbers that replicas have reported.

        Returns:
            One load for each replica that has reported all four numbers.
        """
        names = ("sequences", "adapters", "max_num_seqs", "slots")
        replicas = set.intersection(*(set(stats.get(name, {})) for name in names))
        return [cls(*(stats[name][replica] for name in names)) for replica in sorted(replicas, key=str)]


def required_replicas(loads: list[ReplicaLoad], queued: float) -> int:
    """Compute how many replicas the current load needs.

    Args:
        loads: Loads of the running replicas.
        queued: Number of requests that no replica has received yet.

    Returns:
        The number of replicas, without any limits.
    """
    if not loads:
        return 1 if queued else 0
    max_num_seqs, slots = fmean(load.max_num_seqs for load in loads), fmean(load.slots for load in loads)
    by_sequences = (sum(load.sequences for load in loads) + queued) / (TARGET_UTILIZATION * max_num_seqs)
    by_slots = sum(load.adapters for load in loads) / (TARGET_UTILIZATION * slots)
    return ceil(max(by_sequences, by_slots))


def autoscaling_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Return the target number of replicas, as Ray Serve expects it.

    Args:
        context: Ray Serve's ``AutoscalingContext`` of the deployment.

    Returns:
        The number of replicas within the configured limits, and an empty state.
    """
    loads = ReplicaLoad.from_stats(context.aggregated_metrics or {})
    if context.current_num_replicas and not loads:
        return context.target_num_replicas, {}  # the replicas have just started and not reported yet
    target = required_replicas(loads, context.total_queued_requests or 0)
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(low, min(high, target)), {}
