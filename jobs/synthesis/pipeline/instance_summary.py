"""What the stages must know of all episodes of an instance, summed up over the blocks of drafts.

``run.py`` maps ``aggregate_block`` over the blocks, merges the sums, collects the texts of similar requests with
``collect_texts``, and calls ``summarize``. ``partitions.py`` uses the summaries.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import ray

from looper.jobs.synthesis.pipeline.draft_rows import Row, decode_draft, hash_task
from looper.jobs.synthesis.stages.credit import ToolHabits
from looper.jobs.synthesis.stages.task_leaks import (
    RequestDigests,
    canonical_task_names,
    find_similar_tasks,
    request_words,
)

PARTITION_TRAJECTORIES = 1024
"""Approximate number of trajectories of a partition. All of them are in memory at the same time."""


@dataclass
class InstanceAggregate:
    """Sums over the blocks of one consolidation."""

    habits: ToolHabits = field(default_factory=ToolHabits.empty)
    """Tool habits of all episodes."""
    tasks: set[tuple[str, RequestDigests]] = field(default_factory=set)
    """Each task name, with the digests of a request that was made under this name."""
    count: int = 0
    """Number of drafts."""
    failures: list[str] = field(default_factory=list)
    """Why batches could not be read."""
    blocks: list[int] = field(default_factory=list)
    """Indices of the blocks with its drafts."""


@dataclass(frozen=True)
class InstanceSummary:
    """What the stages must know of all episodes of one consolidation, and how these are partitioned."""

    habits: ToolHabits
    """Tool habits of all episodes."""
    task_names: Mapping[str, str]
    """Canonical name of each task that has several names."""
    count: int
    """Number of drafts."""
    failure: str | None
    """Why a batch could not be read, or None."""
    blocks: tuple[int, ...]
    """Indices of the blocks with its drafts, ascending."""

    @property
    def num_partitions(self) -> int:
        """Number of partitions, at least 1."""
        return max(1, ceil(self.count / PARTITION_TRAJECTORIES))

    def partition_numbers(self, rows: pa.Table) -> Any:
        """Return the partition that each row belongs to.

        Args:
            rows: Rows of this consolidation with the columns ``task`` and ``task_hash``.

        Returns:
            Array ``[rows]`` of partition numbers. A task with several names is in one partition.
        """
        numbers = rows["task_hash"].to_numpy() % self.num_partitions
        renamed = pc.is_in(rows["task"], pa.array([*self.task_names], pa.string()))
        for index in np.flatnonzero(renamed.to_numpy()):
            numbers[index] = hash_task(self.task_names[rows["task"][index].as_py()]) % self.num_partitions
        return numbers


def aggregate_block(row: Row, block_refs: Any) -> Row:
    """Sum up the drafts of one block for each consolidation. Drafts are not decoded.

    Args:
        row: The index of the block, as ``block``.
        block_refs: Reference to the list of references to all blocks.

    Returns:
        The index as ``block``, and the sums as JSON in ``sums``. ``merge_aggregates`` reads them.
    """
    block: pa.Table = ray.get(ray.get(block_refs)[row["block"]])
    by_consolidation: defaultdict[str, list[Row]] = defaultdict(list)
    columns = ["consolidation", "task", "request_digests", "successful_tools", "failure"]
    for draft_row in block.select(columns).to_pylist():
        by_consolidation[draft_row["consolidation"]].append(draft_row)
    sums = [
        {
            "consolidation": consolidation,
            "habits": ToolHabits.from_tool_sequences(
                row["successful_tools"] for row in rows if row["successful_tools"]
            ).to_json(),
            "tasks": sorted({(row["task"], *row["request_digests"]) for row in rows if row["task"]}),
            "count": sum(row["task"] is not None for row in rows),
            "failures": [row["failure"] for row in rows if row["failure"]],
        }
        for consolidation, rows in by_consolidation.items()
    ]
    return {"block": row["block"], "sums": orjson.dumps(sums)}


def merge_aggregates(rows: Iterable[Row]) -> dict[str, InstanceAggregate]:
    """Add up the sums of all blocks.

    Args:
        rows: What ``aggregate_block`` returned for each block.

    Returns:
        The aggregate of each consolidation that has rows.
    """
    aggregates: defaultdict[str, InstanceAggregate] = defaultdict(InstanceAggregate)
    for row in rows:
        for sums in orjson.loads(row["sums"]):
            aggregate = aggregates[sums["consolidation"]]
            aggregate.habits += ToolHabits.from_json(sums["habits"])
            aggregate.tasks.update((task, RequestDigests(*digests)) for task, *digests in sums["tasks"])
            aggregate.count += sums["count"]
            aggregate.failures += sums["failures"]
            aggregate.blocks.append(row["block"])
    return aggregates


def collect_texts(row: Row, block_refs: Any, possible_leaks: Any) -> Row:
    """Collect the request texts of those tasks in one block that may have several names. Other drafts are not decoded.

    Args:
        row: The index of the block, as ``block``.
        block_refs: Reference to the list of references to all blocks.
        possible_leaks: Reference to the names of these tasks, by consolidation.

    Returns:
        JSON in ``texts``. ``summarize`` reads it.
    """
    block: pa.Table = ray.get(ray.get(block_refs)[row["block"]])
    tasks: Mapping[str, Collection[str]] = ray.get(possible_leaks)
    texts = {
        (
            draft_row["consolidation"],
            draft_row["task"],
            RequestDigests(*draft_row["request_digests"]).identifier_digest,
            request_words(decode_draft(block["draft"][index].as_py())),
        )
        for index, draft_row in enumerate(block.select(["consolidation", "task", "request_digests"]).to_pylist())
        if draft_row["task"] in tasks.get(draft_row["consolidation"], ())
    }
    return {"texts": orjson.dumps(sorted(texts))}


def summarize(
    consolidations: Iterable[str], aggregates: Mapping[str, InstanceAggregate], text_rows: Iterable[Row]
) -> dict[str, InstanceSummary]:
    """Summarize each consolidation.

    Args:
        consolidations: Ids of all consolidations. One without any rows gets an empty summary.
        aggregates: What ``merge_aggregates`` returned.
        text_rows: What ``collect_texts`` returned for each block.

    Returns:
        The summary of each consolidation.
    """
    texts: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for row in text_rows:
        for consolidation, task, identifier_digest, text in orjson.loads(row["texts"]):
            texts[consolidation].add((task, identifier_digest, text))
    summaries = {}
    for consolidation in consolidations:
        aggregate = aggregates.get(consolidation, InstanceAggregate())
        summaries[consolidation] = InstanceSummary(
            habits=aggregate.habits,
            task_names=canonical_task_names(
                sorted((task, digests.text_digest) for task, digests in aggregate.tasks),
                find_similar_tasks(texts[consolidation]),
            ),
            count=aggregate.count,
            failure=min(aggregate.failures, default=None),
            blocks=tuple(sorted(aggregate.blocks)),
        )
    return summaries
