"""The files of a consolidation: the files of each partition of tasks, and what they give together.

``pipeline/partitions.py`` makes the partitions of large instances one by one. ``synthesize_in_memory`` does all of it
for a small instance.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from looper.jobs.synthesis.contexts.render_contexts import render_contexts
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.example_table import (
    EXAMPLE_SCHEMA,
    PAIR_SCHEMA,
    REJECTED_SCHEMA,
    example_to_row,
    pair_to_row,
    write_rows,
)
from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.output.report import SynthesisReport, VerdictCounts, count_verdicts
from looper.jobs.synthesis.pipeline.stages import TaskDrafts, run_all_stages
from looper.jobs.synthesis.stages.holdout_split import holdout_tasks
from looper.platform.domain.example import find_context
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import Trajectory

LAST_PARTITION_FILE = "tally.json"
"""Name of the file of a partition that is written last: if it exists, the partition is complete."""

PartitionReader = Callable[[str], bytes]
"""Returns the content of a partition's file by its name, as ``partition_files`` yields it."""


def partition_files(
    tasks: Sequence[TaskDrafts], encoder: FileEncoder | None = None, recipe: Recipe | None = None
) -> Iterator[tuple[str, bytes]]:
    """Make the files of a partition.

    Args:
        tasks: The results of the stages for the tasks of the partition.
        encoder: Encodes for the base model. None: there are no files of windows.
        recipe: Says in which contexts the examples are rendered. None: only as they were recorded.

    Yields:
        Name and content of each file.
    """
    drafts = [(task.name, draft) for task in tasks for draft in task.drafts]
    examples = [
        render_example(draft).model_copy(update={"task_id": name}) for name, draft in drafts if not draft.rejected
    ]
    if recipe is not None:
        examples = render_contexts(examples, recipe.contexts, recipe.max_seq_length)
    pairs = [pair for task in tasks for pair in task.pairs]
    rejected: Iterator[dict[str, str | None]] = (
        {
            "trajectory_id": draft.source.id,
            "task_id": name,
            "reason": draft.rejected,
            "detail": next(verdict.detail for verdict in draft.verdicts if verdict.code == draft.rejected),
        }
        for name, draft in drafts
        if draft.rejected
    )
    yield "examples.parquet", write_rows(map(example_to_row, examples), EXAMPLE_SCHEMA)
    yield "rejected.parquet", write_rows(rejected, REJECTED_SCHEMA)
    yield "pairs.parquet", write_rows(map(pair_to_row, pairs), PAIR_SCHEMA)
    if encoder is not None:
        yield "examples.windows.parquet", encoder.encode_examples(examples)
        yield "pairs.windows.parquet", encoder.encode_pairs(pairs)
    yield LAST_PARTITION_FILE, count_verdicts(tasks).model_dump_json().encode()


def combine_partitions(
    readers: Sequence[PartitionReader], holdout: float, failure: str | None = None, *, encoded: bool = False
) -> tuple[SynthesisReport, Iterator[tuple[str, bytes]]]:
    """Combine the partitions of a consolidation, and split its tasks into training and held-out ones.

    Args:
        readers: Returns the files of each partition. One partition is in memory at a time.
        holdout: Share of tasks that is kept from training, 0 to 1.
        failure: Why a source could not be read, or None.
        encoded: Whether the partitions have files of windows.

    Returns:
        The report, and the names and contents of the files. A file is made when the iterator reaches it.
    """

    def read_tables(file_name: str) -> Iterator[pa.Table]:
        return (pq.read_table(BytesIO(reader(file_name))) for reader in readers)

    example_tasks: list[str] = []
    contexts: Counter[str] = Counter()
    for table in read_tables("examples.parquet"):
        for id, task in zip(table["id"].to_pylist(), table["task_id"].to_pylist(), strict=True):
            if context := find_context(id):
                contexts[context] += 1
            else:
                example_tasks.append(task)
    held_out = holdout_tasks(set(example_tasks), holdout)
    num_holdout = sum(task in held_out for task in example_tasks)
    num_train = len(example_tasks) - num_holdout
    tally = sum((VerdictCounts.model_validate_json(reader("tally.json")) for reader in readers), VerdictCounts())
    report = SynthesisReport(
        trajectories=tally.trajectories,
        train=num_train,
        holdout=num_holdout,
        rejected=dict(sorted(tally.rejected.items())),
        failure=failure or _find_failure(tally, num_train, num_holdout),
        tally=tally,
        contexts=dict(sorted(contexts.items())),
    )

    def make_files() -> Iterator[tuple[str, bytes]]:
        train = _filter_tasks(read_tables("examples.parquet"), held_out, is_member=False)
        yield "train.parquet", _concatenate(train, EXAMPLE_SCHEMA)
        test = _filter_tasks(read_tables("examples.parquet"), held_out, is_member=True)
        yield "holdout.parquet", _concatenate(test, EXAMPLE_SCHEMA)
        pairs = _filter_tasks(read_tables("pairs.parquet"), held_out, is_member=False)
        yield "pairs.parquet", _concatenate(pairs, PAIR_SCHEMA)
        yield "rejected.parquet", _concatenate(read_tables("rejected.parquet"), REJECTED_SCHEMA)
        if encoded:
            from looper.jobs.consolidation.data.window_table import merge_windows  # imports torch

            for name, file_name, is_held_out in (
                ("train.windows.parquet", "examples.windows.parquet", False),
                ("holdout.windows.parquet", "examples.windows.parquet", True),
                ("pairs.windows.parquet", "pairs.windows.parquet", False),
            ):
                contents = (reader(file_name) for reader in readers)
                yield name, merge_windows(contents, partial(_is_member, held_out, is_held_out))

    return report, make_files()


def synthesize_in_memory(
    batches: Iterable[Sequence[Trajectory]],
    holdout: float,
    disabled_stages: Collection[str] = (),
    failure: str | None = None,
    encoder: FileEncoder | None = None,
    recipe: Recipe | None = None,
) -> tuple[SynthesisReport, dict[str, bytes]]:
    """Synthesize the examples of one instance in this process, without stages that need a language model.

    Args:
        batches: The trajectories of each source file.
        holdout: Share of tasks that is kept from training, 0 to 1.
        disabled_stages: Names of stages to leave out.
        failure: Why a source could not be read, or None.
        encoder: Encodes for the base model. None: there are no files of windows.
        recipe: Says in which contexts the examples are rendered. None: only as they were recorded.

    Returns:
        The report, and the content of each file by name. ``pipeline.run.synthesize`` writes the same files.
    """
    files = dict(partition_files(run_all_stages(batches, disabled_stages), encoder, recipe))
    report, combined = combine_partitions([files.__getitem__], holdout, failure, encoded=encoder is not None)
    return report, dict(combined)


def _is_member(tasks: Collection[str], wanted: bool, task: str) -> bool:
    return (task in tasks) is wanted


def _filter_tasks(tables: Iterator[pa.Table], tasks: Collection[str], *, is_member: bool) -> Iterator[pa.Table]:
    """Yield the rows whose task is in ``tasks``, or those whose task is not."""
    for table in tables:
        mask = [(task in tasks) is is_member for task in table["task_id"].to_pylist()]
        yield table.filter(pa.array(mask, pa.bool_()))


def _concatenate(tables: Iterator[pa.Table], schema: pa.Schema) -> bytes:
    file = BytesIO()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    return file.getvalue()


def _find_failure(tally: VerdictCounts, num_train: int, num_holdout: int) -> str | None:
    """Return why the examples cannot be trained on, or None."""
    if not num_train:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.rejected.items()))
        return (
            f"no examples left after filtering: of {tally.trajectories} trajectories, {reasons or 'none'}; ingest "
            "successful episodes"
        )
    if not num_holdout:
        return (
            f"the {num_train} examples are of one task, so that none can be held out for the gate: ingest a second task"
        )
    return None
