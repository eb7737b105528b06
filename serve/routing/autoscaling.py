"""How many replicas a pool of engines needs, as a policy of Ray Serve's autoscaler.

Requests in flight are not all that fills an engine: one that serves more adapters than it has slots makes their
requests wait while seats are free, and another replica brings slots. Ray Serve has delays and bounds of its own; what
is said here is what the load wants now. Runs in Ray Serve's controller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any

BUSY = 0.8
"""Of its seats and slots, what a replica fills on average: the rest takes up bursts."""

Stats = Mapping[str, Mapping[Any, float]]
"""By the name of a number that replicas report, then by replica."""


@dataclass(frozen=True)
class ReplicaLoad:
    """What a replica says of itself, every few seconds."""

    asked: float
    """Requests that are served or wait."""
    adapters: float
    """Different ones among them."""
    seats: float
    slots: float

    @classmethod
    def of(cls, stats: Stats) -> list["ReplicaLoad"]:
        """One of each replica that has reported all of it."""
        names = ("asked", "adapters", "seats", "slots")
        replicas = set.intersection(*(set(stats.get(name, {})) for name in names))
        return [cls(*(stats[name][replica] for name in names)) for replica in sorted(replicas, key=str)]


def required_replicas(reports: list[ReplicaLoad], queued: float) -> int:
    """The replicas that so much load fills; ``queued`` requests have not reached any."""
    if not reports:
        return 1 if queued else 0
    seats, slots = fmean(each.seats for each in reports), fmean(each.slots for each in reports)
    by_seats = (sum(each.asked for each in reports) + queued) / (BUSY * seats)
    by_slots = sum(each.adapters for each in reports) / (BUSY * slots)
    return ceil(max(by_seats, by_slots))


def autoscaling_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """As Ray Serve calls it, with its ``AutoscalingContext``."""
    reports = ReplicaLoad.of(context.aggregated_metrics or {})
    if context.current_num_replicas and not reports:
        return context.target_num_replicas, {}  # they have just started
    target = required_replicas(reports, context.total_queued_requests or 0)
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(low, min(high, target)), {}
