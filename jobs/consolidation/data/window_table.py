"""Parquet files of windows, which synthesis writes beside the files of examples. Trainers read only these."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from looper.jobs.consolidation.data.window import Window
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import find_context

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

_LEFT_OUT, _CROPPED, _REVISION = b"left_out", b"cropped", b"base_revision"


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
    base_revision: str
    """Revision of the base model whose tokens these are."""
    left_out_by_task: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Number of turns that the base model cannot be taught, by task and reason."""
    cropped_by_task: Mapping[str, int] = field(default_factory=dict)
    """Number of turns that do not fit into a window with their prompt, by task."""

    @property
    def windows(self) -> list[Window]:
        """The windows alone."""
        return [row.window for row in self.rows]

    @property
    def recorded(self) -> list[Window]:
        """Windows of the examples as they were recorded."""
        return [row.window for row in self.rows if not find_context(row.example_id)]

    @property
    def rendered(self) -> list[Window]:
        """Windows of the examples that are rendered again in other contexts."""
        return [row.window for row in self.rows if find_context(row.example_id)]

    @property
    def left_out(self) -> dict[str, int]:
        """Number of turns that the base model cannot be taught, by reason."""
        return dict(sum(map(Counter, self.left_out_by_task.values()), Counter()))

    @property
    def cropped(self) -> int:
        """Number of turns that do not fit into a window with their prompt."""
        return sum(self.cropped_by_task.values())

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
    metadata = _metadata(table.base_revision, table.left_out_by_task, table.cropped_by_task)
    return _write([pa.table(columns, schema=_SCHEMA)], metadata)


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
    written_for = metadata[_REVISION].decode()
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
    return WindowTable(rows, written_for, orjson.loads(metadata[_LEFT_OUT]), orjson.loads(metadata[_CROPPED]))


def merge_windows(contents: Iterable[bytes], is_wanted: Callable[[str], bool]) -> bytes:
    """Merge files of windows of one base model into one. One file is in memory at a time, beside the result.

    Args:
        contents: Contents of the files, at least one.
        is_wanted: Tells by its id whether a task's windows are kept.

    Returns:
        Content of the file with all windows that are kept.
    """
    left_out: dict[str, Mapping[str, int]] = {}
    cropped: dict[str, int] = {}
    tables, revision = [], ""
    for content in contents:
        table = pq.read_table(BytesIO(content))
        metadata = table.schema.metadata
        revision = metadata[_REVISION].decode()
        left_out |= {task: of for task, of in orjson.loads(metadata[_LEFT_OUT]).items() if is_wanted(task)}
        cropped |= {task: of for task, of in orjson.loads(metadata[_CROPPED]).items() if is_wanted(task)}
        mask = pa.array(map(is_wanted, table["task_id"].to_pylist()), pa.bool_())
        tables.append(table.filter(mask))
    return _write(tables, _metadata(revision, left_out, cropped))


@dataclass(frozen=True)
class WindowCounts:
    """Numbers about a file of windows."""

    windows: int
    """Number of windows."""
    tokens_by_example: list[int]
    """Tokens of all windows of each example."""
    divided: int
    """Number of examples that take more than one window."""
    targets: int
    """Number of tokens that have a weight."""
    left_out: dict[str, int]
    """Number of turns that the base model cannot be taught, by reason."""
    cropped: int
    """Number of turns that do not fit into a window with their prompt."""


def count_windows(content: bytes) -> WindowCounts:
    """Count what is in a file of windows, without making the windows.

    Args:
        content: Content of a file that ``write_windows`` wrote.

    Returns:
        The numbers.
    """
    arrow = pq.read_table(BytesIO(content), columns=["example_id", "tokens", "weights"])
    lengths = pc.list_value_length(arrow["tokens"]).to_numpy()
    _, examples = np.unique(arrow["example_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    metadata = arrow.schema.metadata
    facts = WindowTable([], "", orjson.loads(metadata[_LEFT_OUT]), orjson.loads(metadata[_CROPPED]))
    return WindowCounts(
        windows=len(lengths),
        tokens_by_example=[int(tokens) for tokens in np.bincount(examples, lengths)],
        divided=int((np.bincount(examples) > 1).sum()),
        targets=sum(int((chunk.flatten().to_numpy() > 0).sum()) for chunk in arrow["weights"].chunks),
        left_out=facts.left_out,
        cropped=facts.cropped,
    )


def read_task_ids(content: bytes) -> set[str]:
    """Return the ids of all tasks in a file of windows."""
    return set(pq.read_table(BytesIO(content), columns=["task_id"])["task_id"].to_pylist())


def _metadata(
    revision: str, left_out: Mapping[str, Mapping[str, int]], cropped: Mapping[str, int]
) -> dict[bytes, bytes]:
    as_json = (orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in (left_out, cropped))
    return dict(zip((_LEFT_OUT, _CROPPED), as_json, strict=True)) | {_REVISION: revision.encode()}


def _write(tables: Iterable[pa.Table], metadata: dict[bytes, bytes]) -> bytes:
    file = BytesIO()
    schema = _SCHEMA.with_metadata(metadata)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata))
    return file.getvalue()


def _pack(arrays: Sequence[np.ndarray], type: pa.DataType) -> pa.ListArray:
    values = np.concatenate(arrays) if arrays else np.empty(0)
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, type))


def _unpack(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    for chunk in column.chunks:
        values, offsets = chunk.flatten().to_numpy(), chunk.offsets.to_numpy()
        offsets = offsets - offsets[0]
        yield from (values[start:end] for start, end in pairwise(offsets))
