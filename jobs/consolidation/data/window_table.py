"""Parquet files of windows, which synthesis writes beside the files of examples. Trainers read only these."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from looper.jobs.consolidation.data.window import Window
from looper.platform.domain.errors import InvalidInput

_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("task_id", pa.string()),
        ("tools", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
        ("calls", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class ExampleWindow:
    """A window, and the example that it is a part of."""

    window: Window
    """The window."""
    example_id: str
    """Id of the example."""
    task_id: str
    """Task of the example."""
    tools: str | None
    """The agent's tool list as JSON text."""


@dataclass(frozen=True)
class WindowTable:
    """The windows of a file of examples."""

    rows: list[ExampleWindow]
    """The windows, in the order of the examples."""
    left_out: dict[str, int]
    """Number of turns that the base model cannot be taught, by reason."""
    base_revision: str
    """Revision of the base model whose tokens these are."""
    cropped: int = 0
    """Number of turns that do not fit into a window with their prompt."""

    @property
    def windows(self) -> list[Window]:
        """The windows alone."""
        return [row.window for row in self.rows]

    def require(self, what: str) -> None:
        """Check that there is something to learn.

        Args:
            what: What the examples are for the error message, such as ``"training examples"``.

        Raises:
            InvalidInput: If there are no windows. The message has the most frequent reason.
        """
        if not self.rows:
            reason, _ = max(self.left_out.items(), key=lambda item: item[1], default=("there are none", 0))
            raise InvalidInput(f"none of the {what} can be taught to the base model: {reason}")

    def by_example(self) -> list[list[ExampleWindow]]:
        """Return the windows of each example."""
        found: dict[str, list[ExampleWindow]] = {}
        for row in self.rows:
            found.setdefault(row.example_id, []).append(row)
        return list(found.values())


def write_windows(table: WindowTable) -> bytes:
    """Write a file of windows.

    Args:
        table: The windows.

    Returns:
        Content of a Parquet file. Equal windows give equal bytes.
    """
    rows = table.rows
    columns = {
        "example_id": [row.example_id for row in rows],
        "task_id": [row.task_id for row in rows],
        "tools": [row.tools for row in rows],
        "tokens": _pack([row.window.tokens for row in rows], pa.int32()),
        "weights": _pack([row.window.weights for row in rows], pa.float32()),
        "calls": _pack([np.asarray(row.window.calls, np.int32).reshape(-1) for row in rows], pa.int32()),
    }
    metadata = {
        "base_revision": table.base_revision,
        "left_out": orjson.dumps(dict(sorted(table.left_out.items()))),
        "cropped": str(table.cropped),
    }
    arrow = pa.table(columns, schema=_SCHEMA.with_metadata(metadata))
    file = BytesIO()
    pq.write_table(arrow, file, compression="zstd")
    return file.getvalue()


def read_windows(content: bytes, base_revision: str) -> WindowTable:
    """Read a file of windows.

    Args:
        content: Content of a file that ``write_windows`` wrote.
        base_revision: Revision of the base model that reads it.

    Returns:
        The windows.

    Raises:
        InvalidInput: If these are tokens of another base model.
    """
    arrow = pq.read_table(BytesIO(content))
    metadata = arrow.schema.metadata
    written_for = metadata[b"base_revision"].decode()
    if written_for != base_revision:
        raise InvalidInput(
            f"the examples were encoded for base revision {written_for}, and the base model is at revision "
            f"{base_revision}: submit the consolidation again"
        )
    tokens, weights, calls = (_unpack(arrow[name]) for name in ("tokens", "weights", "calls"))
    rows = [
        ExampleWindow(Window(token, weight, tuple(map(tuple, call.reshape(-1, 2).tolist()))), *texts)
        for token, weight, call, *texts in zip(
            tokens,
            weights,
            calls,
            *(arrow[name].to_pylist() for name in ("example_id", "task_id", "tools")),
            strict=True,
        )
    ]
    return WindowTable(rows, orjson.loads(metadata[b"left_out"]), written_for, int(metadata[b"cropped"]))


def read_task_ids(content: bytes) -> set[str]:
    """Return the ids of all tasks in a file of windows."""
    return set(pq.read_table(BytesIO(content), columns=["task_id"])["task_id"].to_pylist())


def _pack(arrays: Sequence[np.ndarray], type: pa.DataType) -> pa.ListArray:
    values = np.concatenate(arrays) if arrays else np.empty(0)
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, type))


def _unpack(column: pa.ChunkedArray) -> Iterable[np.ndarray]:
    for chunk in column.chunks:
        values, offsets = chunk.flatten().to_numpy(), chunk.offsets.to_numpy()
        offsets = offsets - offsets[0]
        yield from (values[start:end] for start, end in pairwise(offsets))
