"""What a gateway pays per request for its choice of a replica, and a replica for evicting an adapter."""

import asyncio
import hashlib
import random
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, cast

from ray.serve._private.request_router.common import ReplicaQueueLengthCache

from looper.benchmarks.scale.costs.rows import CostRow
from looper.serve.cache.pinned_lru_cache import PinnedLRUCache
from looper.serve.routing.placement import MAX_LOAD_FACTOR, Placement
from looper.serve.routing.replica_selector import ReplicaSelector

MAX_NUM_SEQS = 16
"""Sequences of a replica."""

MEASURED_S = 0.5
"""CPU time of one measurement, in seconds. Other processes of the machine do not count."""


def measure_choices(counts: Sequence[int]) -> list[CostRow]:
    """Measure one choice of a replica, with the real selector and Ray Serve's cache of queue lengths.

    Args:
        counts: Numbers of replicas.

    Returns:
        A row for each number, and one for the same choice by hashing and sorting all replicas.
    """
    rows = []
    for count in counts:
        ids = [f"{number:08x}" for number in range(count)]
        selector, lengths = _selector(ids)
        digests = _digests(2000)
        rows.append(CostRow("choice of a replica", "replicas", count, "us", _time_us(selector.select, digests)))
        loads = {id: lengths.get(cast(Any, id)) or 0 for id in ids}
        us = _time_us(partial(_sort_all, loads), digests)
        rows.append(CostRow("choice by hashing and sorting all", "replicas", count, "us", us))
    return rows


def measure_routing_memory(count: int) -> CostRow:
    """Measure the memory of one gateway's routing tables.

    Args:
        count: Number of replicas.

    Returns:
        The row, in MiB.
    """
    ids = [f"{number:08x}" for number in range(count)]
    tracemalloc.start()
    tables = _selector(ids)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del tables
    return CostRow("memory of the routing tables of a gateway", "replicas", count, "MiB", size / 2**20)


def measure_moves(count: int, digests: int = 20_000) -> list[CostRow]:
    """Count which share of the versions changes its replica when one replica comes.

    Args:
        count: Number of replicas before.
        digests: Number of versions.

    Returns:
        The share that moves, and the smallest possible.
    """
    ids = [f"{number:08x}" for number in range(count + 1)]
    before, after = Placement(ids[:-1]), Placement(ids)
    moved = sum(next(before.rank(digest)) != next(after.rank(digest)) for digest in _digests(digests))
    return [
        CostRow("versions that move when a replica comes", "replicas", count, "share", moved / digests),
        CostRow("the least that must move", "replicas", count, "share", 1 / (count + 1)),
    ]


def measure_evictions(capacities: Sequence[int]) -> list[CostRow]:
    """Measure how long the event loop of a replica takes to load one more adapter into a full cache.

    Args:
        capacities: Numbers of adapters in the cache.

    Returns:
        A row for each.
    """
    return [
        CostRow("an adapter into a full cache", "adapters", capacity, "us", asyncio.run(_eviction_us(capacity)))
        for capacity in capacities
    ]


async def _eviction_us(capacity: int) -> float:
    async def load(digest: str) -> Path:
        return Path(digest)

    async def evict(digest: str, folder: Path) -> None:
        pass

    cache = PinnedLRUCache(load, evict, capacity)
    for number in range(capacity):
        await cache.get(f"{number}", f"tenant-{number % 100}")
    count, begin_s = 0, time.process_time()
    while count < 20 or time.process_time() < begin_s + MEASURED_S:
        await cache.get(f"new-{count}", f"tenant-{count % 100}")
        count += 1
    return (time.process_time() - begin_s) / count * 1e6


def _selector(ids: Sequence[str]) -> tuple[ReplicaSelector, ReplicaQueueLengthCache]:
    lengths, generator = ReplicaQueueLengthCache(staleness_timeout_s=3600), random.Random(0)
    for id in ids:
        lengths.update(cast(Any, id), generator.randrange(MAX_NUM_SEQS))
    selector = ReplicaSelector(MAX_NUM_SEQS, cast(Any, lengths.get))
    selector.update(ids)
    return selector, lengths


def _digests(count: int) -> list[str]:
    return [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(count)]


def _sort_all(loads: Mapping[str, int], digest: str) -> list[str]:
    """Choose as ``Placement`` does, but hash, sort and look at all replicas."""
    max_load = max(MAX_NUM_SEQS // 4, ceil(MAX_LOAD_FACTOR * (sum(loads.values()) + 1) / len(loads)))
    ranks = sorted(loads, key=lambda replica: hashlib.blake2b(f"{digest}@{replica}".encode()).digest())
    candidates = [replica for replica in ranks if loads[replica] < max_load]
    return sorted(candidates, key=lambda replica: max(0, loads[replica] - MAX_NUM_SEQS + 1))


def _time_us(action: Callable[[str], object], digests: Sequence[str]) -> float:
    count, begin_s = 0, time.process_time()
    while time.process_time() < begin_s + MEASURED_S:
        action(digests[count % len(digests)])
        count += 1
    return (time.process_time() - begin_s) / count * 1e6
