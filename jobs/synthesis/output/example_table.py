"""Parquet files of examples, rejected trajectories and preference pairs.

Nested values are stored as JSON text, so that the schema does not depend on the tools and their arguments.
``output_files.py`` writes these files; training and evaluation read them.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from looper.jobs.synthesis.stages.preference_pairs import PreferencePair
from looper.platform.domain.example import Example

EXAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("trajectory_id", pa.string()),
        ("task_id", pa.string()),
        ("turns", pa.string()),
        ("tools", pa.string()),
    ]
)
"""Columns of ``train.parquet`` and ``holdout.parquet``."""

REJECTED_SCHEMA = pa.schema(
    [("trajectory_id", pa.string()), ("task_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
"""Columns of ``rejected.parquet``."""

PAIR_SCHEMA = pa.schema(
    [
        ("task_id", pa.string()),
        ("chosen_from", pa.string()),
        ("rejected_from", pa.string()),
        ("prefix", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("tools", pa.string()),
    ]
)
"""Columns of ``pairs.parquet``."""

_PAIR_JSON_COLUMNS = ("prefix", "chosen", "rejected")


def write_rows(rows: Iterable[dict[str, str | None]], schema: pa.Schema) -> bytes:
    """Write a Parquet file.

    Args:
        rows: Rows with the columns of ``schema``. Further columns are left out.
        schema: Schema of the file.

    Returns:
        Content of the file. The same rows give the same bytes.
    """
    file = BytesIO()
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def example_to_row(example: Example) -> dict[str, str | None]:
    """Convert an example to a row.

    Args:
        example: The example.

    Returns:
        A row with the columns of ``EXAMPLE_SCHEMA``.
    """
    row = example.model_dump(mode="json")
    return {**row, "turns": orjson.dumps(row["turns"]).decode()}


def pair_to_row(pair: PreferencePair) -> dict[str, str | None]:
    """Convert a preference pair to a row.

    Args:
        pair: The pair.

    Returns:
        A row with the columns of ``PAIR_SCHEMA``.
    """
    row = pair.model_dump(mode="json")
    return {**row, **{name: orjson.dumps(row[name]).decode() for name in _PAIR_JSON_COLUMNS}}


def read_pairs(content: bytes) -> list[PreferencePair]:
    """Read a file of preference pairs.

    Args:
        content: Content of a file with the schema ``PAIR_SCHEMA``.

    Returns:
        The pairs in the order of the file.
    """
    rows = pq.read_table(BytesIO(content), schema=PAIR_SCHEMA).to_pylist()
    return [
        PreferencePair.model_validate({**row, **{name: orjson.loads(row[name]) for name in _PAIR_JSON_COLUMNS}})
        for row in rows
    ]


def read_examples(content: bytes) -> list[Example]:
    """Read a file of examples.

    Args:
        content: Content of a file with the schema ``EXAMPLE_SCHEMA``.

    Returns:
        The examples in the order of the file.
    """
    return [_to_example(row) for row in pq.read_table(BytesIO(content), schema=EXAMPLE_SCHEMA).to_pylist()]


def _to_example(row: dict[str, Any]) -> Example:
    return Example.model_validate({**row, "turns": orjson.loads(row["turns"])})
