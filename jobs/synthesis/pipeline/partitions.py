"""Partitions of an instance's drafts: whole tasks that fit into memory together, and the work on each of them.

``run.py`` plans the partitions, then maps ``write_partitions`` and ``merge_partitions`` with Ray Data. The drafts are
never sorted or shuffled. They stay in the blocks in which they were read, and the Ray task that works on a partition
picks its drafts out of the blocks of its instance, one block after another.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.output_files import LAST_PARTITION_FILE, combine_partitions, partition_files
from looper.jobs.synthesis.output.publish import ExamplePublisher
from looper.jobs.synthesis.pipeline.draft_rows import Row, decode_draft
from looper.jobs.synthesis.pipeline.instance_summary import PARTITION_TRAJECTORIES, InstanceSummary
from looper.jobs.synthesis.pipeline.stages import TaskDrafts, run_task_stages
from looper.platform.objectstore import ObjectStore, keys

WRITER_THREADS = 4
"""Threads of a Ray task that write partitions while it works on the next. They mostly wait for the object store."""


def plan_partitions(summaries: Mapping[str, InstanceSummary]) -> list[list[str]]:
    """Divide the partitions of all consolidations among Ray tasks.

    Args:
        summaries: The summary of each consolidation.

    Returns:
        The ids of the partitions for each Ray task, about ``PARTITION_TRAJECTORIES`` trajectories each.
    """
    plan: list[list[str]] = [[]]
    size = 0.0
    for consolidation, summary in summaries.items():
        for number in range(summary.num_partitions):
            if size >= PARTITION_TRAJECTORIES:
                plan.append([])
                size = 0
            plan[-1].append(partition_id(consolidation, number))
            size += summary.count / summary.num_partitions
    return plan


def partition_id(consolidation: str, number: int) -> str:
    """Return the id of a partition.

    Args:
        consolidation: Id of the consolidation.
        number: Number of the partition, from 0.

    Returns:
        An id such as ``<consolidation>/00003``.
    """
    return f"{consolidation}/{number:05d}"


def _file_key(partition: str, file_name: str) -> str:
    consolidation, _, number = partition.partition("/")
    return keys.examples(consolidation, f"parts/{number}.{file_name}")


def write_partitions(
    row: Row,
    publisher: ExamplePublisher,
    summaries: Any,
    block_refs: Any,
    holdout: float,
    disabled_stages: tuple[str, ...],
) -> Row:
    """Run the stages that see whole tasks on some partitions, and write the results to the object store.

    A partition that holds a whole consolidation is published directly; for others ``merge_partitions`` does that.
    Partitions that are in the store already are skipped.

    Args:
        row: Ids of the partitions, as ``partitions``.
        publisher: Writes the final files.
        summaries: Reference to the summary of each consolidation.
        block_refs: Reference to the list of references to all blocks.
        holdout: Share of tasks that is kept from training, 0 to 1.
        disabled_stages: Names of stages to leave out.

    Returns:
        The number of partitions that were written, as ``written``.
    """
    summary_of: Mapping[str, InstanceSummary] = ray.get(summaries)
    store = publisher.store
    missing = [name for name in row["partitions"] if not store.exists(_file_key(name, LAST_PARTITION_FILE))]
    drafts = _pick_drafts(missing, summary_of, ray.get(block_refs))
    with ThreadPoolExecutor(WRITER_THREADS) as writers:
        writes = []
        for name in missing:
            consolidation = name.partition("/")[0]
            summary = summary_of[consolidation]
            tasks = _run_partition_stages(drafts.pop(name, []), summary, disabled_stages)
            encoder = publisher.encoder(consolidation)
            files = dict(partition_files(tasks, encoder, publisher.recipes[consolidation]))
            if summary.num_partitions == 1:
                result = combine_partitions([files.__getitem__], holdout, summary.failure, encoded=encoder is not None)
                writes.append(writers.submit(publisher.publish, consolidation, *result))
            else:
                writes.append(writers.submit(_write_files, store, name, files))
        for write in writes:
            write.result()
    return {"written": len(missing)}


def _write_files(store: ObjectStore, partition: str, files: Mapping[str, bytes]) -> None:
    for file_name, content in files.items():  # in the order in which they were made, so the last one is the last
        store.put(_file_key(partition, file_name), content)


def _pick_drafts(
    partitions: Collection[str], summaries: Mapping[str, InstanceSummary], block_refs: Sequence[Any]
) -> dict[str, list[bytes]]:
    """Return the encoded drafts of each partition. One block is in memory at a time."""
    numbers_of: defaultdict[str, list[int]] = defaultdict(list)
    for consolidation, _, digits in (name.partition("/") for name in partitions):
        numbers_of[consolidation].append(int(digits))
    picked: defaultdict[str, list[bytes]] = defaultdict(list)
    for index in sorted({index for consolidation in numbers_of for index in summaries[consolidation].blocks}):
        block: pa.Table = ray.get(block_refs[index])
        for consolidation, numbers in numbers_of.items():
            if index not in summaries[consolidation].blocks:
                continue
            matches = pc.and_(pc.equal(block["consolidation"], consolidation), pc.is_valid(block["draft"]))
            rows = np.flatnonzero(matches.to_numpy())
            row_numbers = summaries[consolidation].partition_numbers(block.select(["task", "task_hash"]).take(rows))
            for number in numbers:
                drafts = block["draft"].take(rows[row_numbers == number]).to_pylist()
                picked[partition_id(consolidation, number)] += drafts
    return picked


def _run_partition_stages(
    encoded_drafts: Iterable[bytes], summary: InstanceSummary, disabled_stages: tuple[str, ...]
) -> list[TaskDrafts]:
    by_task: defaultdict[str, list[Draft]] = defaultdict(list)
    for content in encoded_drafts:
        draft = decode_draft(content)
        by_task[summary.task_names.get(draft.source.task_id, draft.source.task_id)].append(draft)
    return [
        run_task_stages(name, by_task[name], summary.habits, summary.task_names, disabled_stages)
        for name in sorted(by_task)
    ]


def merge_partitions(row: Row, publisher: ExamplePublisher, summaries: Any, holdout: float) -> Row:
    """Merge the partitions of one consolidation and publish the result, the report last.

    Args:
        row: Id of the consolidation, as ``consolidation``.
        publisher: Writes the final files.
        summaries: Reference to the summary of each consolidation.
        holdout: Share of tasks that is kept from training, 0 to 1.

    Returns:
        The id of the consolidation, as ``consolidation``.
    """
    consolidation = row["consolidation"]
    summary: InstanceSummary = ray.get(summaries)[consolidation]
    names = [partition_id(consolidation, number) for number in range(summary.num_partitions)]
    readers = [partial(_read_file, publisher.store, name) for name in names]
    encoded = publisher.encoder(consolidation) is not None
    publisher.publish(consolidation, *combine_partitions(readers, holdout, summary.failure, encoded=encoded))
    publisher.store.delete(keys.examples(consolidation, "parts"))
    return {"consolidation": consolidation}


def _read_file(store: ObjectStore, partition: str, file_name: str) -> bytes:
    return store.get(_file_key(partition, file_name))
