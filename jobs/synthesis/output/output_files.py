"""From tasks to the files of a consolidation: parts that can be made one by one, and what they are together."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from looper.jobs.synthesis.output.example_table import EXAMPLES, PAIRS, REJECTED, pair_to_row, to_row, write_rows
from looper.jobs.synthesis.output.render import render
from looper.jobs.synthesis.output.report import SynthesisReport, VerdictCounts, tally
from looper.jobs.synthesis.pipeline.stages import TaskDrafts, refine
from looper.jobs.synthesis.stages.holdout_split import holdout_tasks
from looper.platform.domain.trajectory import Trajectory

PARTS = ("examples.parquet", "rejected.parquet", "pairs.parquet", "tally.json")
"""What is made of some tasks, the last as the sign that it is whole."""

Part = Callable[[str], bytes]
"""Gives the content of each of ``PARTS``."""


def contents(tasks: Sequence[TaskDrafts]) -> Iterator[bytes]:
    """Of ``PARTS``, in their order."""
    kept = [(task.name, draft) for task in tasks for draft in task.drafts if not draft.rejected]
    gone = [(task.name, draft) for task in tasks for draft in task.drafts if draft.rejected]
    yield write_rows(({**to_row(render(draft)), "task_id": name} for name, draft in kept), EXAMPLES)
    rejected = (
        {
            "trajectory_id": draft.source.id,
            "task_id": name,
            "reason": draft.rejected,
            "detail": next(verdict.detail for verdict in draft.verdicts if verdict.what == draft.rejected),
        }
        for name, draft in gone
    )
    yield write_rows(rejected, REJECTED)
    yield write_rows((pair_to_row(pair) for task in tasks for pair in task.pairs), PAIRS)
    yield tally(tasks).model_dump_json().encode()


def divide(
    parts: Sequence[Part], holdout: float, failure: str | None = None
) -> tuple[SynthesisReport, Iterator[tuple[str, bytes]]]:
    """The report, and the files by their names, made when they are asked for. One part is in memory at a time.

    ``holdout`` is the share of tasks that is kept from training; ``failure`` is why a source could not be read.
    """

    def tables(what: str) -> Iterator[pa.Table]:
        return (pq.read_table(BytesIO(part(what))) for part in parts)

    tasks = [table["task_id"].to_pylist() for table in tables("examples.parquet")]
    held = holdout_tasks({task for some in tasks for task in some}, holdout)
    holds = sum(task in held for some in tasks for task in some)
    trains = sum(map(len, tasks)) - holds
    whole = sum((VerdictCounts.model_validate_json(part("tally.json")) for part in parts), VerdictCounts())
    report = SynthesisReport(
        trajectories=whole.trajectories,
        train=trains,
        holdout=holds,
        rejected=dict(sorted(whole.rejected.items())),
        failure=failure or _failure(whole, trains, holds),
        tally=whole,
    )

    def files() -> Iterator[tuple[str, bytes]]:
        yield "train.parquet", _joined(_side(tables("examples.parquet"), held, inside=False), EXAMPLES)
        yield "holdout.parquet", _joined(_side(tables("examples.parquet"), held, inside=True), EXAMPLES)
        yield "pairs.parquet", _joined(_side(tables("pairs.parquet"), held, inside=False), PAIRS)
        yield "rejected.parquet", _joined(tables("rejected.parquet"), REJECTED)

    return report, files()


def in_memory(
    batches: Iterable[Sequence[Trajectory]], holdout: float, without: Collection[str] = (), failure: str | None = None
) -> tuple[SynthesisReport, dict[str, bytes]]:
    """All of it in this process, for one instance: what ``run.synthesise`` writes."""
    made = dict(zip(PARTS, contents(refine(batches, without)), strict=True))
    report, files = divide([made.__getitem__], holdout, failure)
    return report, dict(files)


def _side(tables: Iterator[pa.Table], held: Collection[str], *, inside: bool) -> Iterator[pa.Table]:
    for table in tables:
        yield table.filter(pa.array([(task in held) is inside for task in table["task_id"].to_pylist()], pa.bool_()))


def _joined(tables: Iterator[pa.Table], schema: pa.Schema) -> bytes:
    file = BytesIO()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    return file.getvalue()


def _failure(whole: VerdictCounts, train: int, holdout: int) -> str | None:
    if not train:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(whole.rejected.items()))
        return (
            f"no examples left after filtering: of {whole.trajectories} trajectories, {why or 'none'}; ingest "
            "successful episodes"
        )
    if not holdout:
        return f"the {train} examples are of one task, so that none can be held out for the gate: ingest a second task"
    return None
