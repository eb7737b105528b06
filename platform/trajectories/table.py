"""Trajectories as an Arrow table and as Parquet: one row each, every field of a fixed type.

Ingestion writes the batches; synthesis and the gate read them. What differs between sources (arguments, tools, outcome
details) is JSON text, so any two batches concatenate and Ray Data can pass them on: with
``map_batches(batch_format="pyarrow")`` a function gets what ``from_table`` takes.
"""

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from looper.platform.domain.trajectory import Outcome, Trajectory

_CALL = pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())])
_STEP = pa.struct(
    [
        ("source", pa.string()),
        ("content", pa.string()),
        ("reasoning", pa.string()),
        ("tool_calls", pa.list_(_CALL)),
        ("call_id", pa.string()),
        ("requestor", pa.string()),
        ("timestamp", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task_id", pa.string()),
        ("format", pa.string()),
        ("steps", pa.list_(_STEP)),
        ("success", pa.bool_()),
        ("reward", pa.float64()),
        ("detail", pa.string()),
        ("tools", pa.string()),
    ]
)
"""Columns of a batch."""

# A row group ends at either limit, whichever is reached first. It bounds what a writer or a reader holds in memory.
_MAX_GROUP_ROWS = 512
_MAX_GROUP_CHARACTERS = 16 * 1024**2


def to_table(trajectories: Iterable[Trajectory]) -> pa.Table:
    """Return trajectories as a table.

    Args:
        trajectories: The trajectories.

    Returns:
        One row per trajectory, in order, with ``SCHEMA``.
    """
    return pa.Table.from_pylist([_to_row(trajectory) for trajectory in trajectories], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Trajectory]:
    """Return the trajectories of a table.

    Args:
        table: A table with at least the columns of ``SCHEMA``.
    """
    return [_from_row(row) for row in table.select(SCHEMA.names).to_pylist()]


def to_parquet(trajectories: Iterable[Trajectory]) -> bytes:
    """Return trajectories as a Parquet file with zstd compression.

    Holds one row group of trajectories and the compressed file in memory.

    Args:
        trajectories: The trajectories; consumed one at a time.

    Returns:
        Content of the file. The same trajectories in the same order give the same bytes with the same pyarrow.
    """
    file = BytesIO()
    write_parquet(trajectories, file)
    return file.getvalue()


def write_parquet(trajectories: Iterable[Trajectory], file: BinaryIO) -> None:
    """Write the file that ``to_parquet`` returns, with one row group of trajectories in memory.

    Args:
        trajectories: The trajectories; consumed one at a time.
        file: File to write to.
    """
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for group in _row_groups(trajectories):
            writer.write_table(to_table(group), row_group_size=len(group))


def from_parquet(content: bytes) -> list[Trajectory]:
    """Return the trajectories of a Parquet file.

    Args:
        content: Content of a file that ``to_parquet`` wrote.
    """
    return from_table(pq.read_table(BytesIO(content), schema=SCHEMA))


def _row_groups(trajectories: Iterable[Trajectory]) -> Iterator[list[Trajectory]]:
    group: list[Trajectory] = []
    characters = 0
    for trajectory in trajectories:
        group.append(trajectory)
        characters += sum(
            len(step.content) + len(step.reasoning) + sum(len(call.arguments) for call in step.tool_calls)
            for step in trajectory.steps
        )
        if len(group) == _MAX_GROUP_ROWS or characters >= _MAX_GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _to_row(trajectory: Trajectory) -> dict[str, object]:
    row = trajectory.model_dump()
    return {**row, **row.pop("outcome")}


def _from_row(row: dict[str, Any]) -> Trajectory:
    for step in row["steps"]:
        step["reasoning"] = step["reasoning"] or ""  # None in files of versions that did not keep it
    outcome = Outcome.model_validate({name: row.pop(name) for name in Outcome.model_fields})
    return Trajectory.model_validate({**row, "outcome": outcome})
