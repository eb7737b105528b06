"""Examples as Parquet: nested parts are JSON text, so that the schema is the same whatever the tools and arguments."""

from collections.abc import Iterable
from heapq import nsmallest
from io import BytesIO
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from looper.jobs.synthesis.stages.preference_pairs import Pair
from looper.platform.domain.example import Example

AT_ONCE = 256
"""Rows that are read together."""

EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("trajectory_id", pa.string()),
        ("task_id", pa.string()),
        ("turns", pa.string()),
        ("tools", pa.string()),
    ]
)
REJECTED = pa.schema(
    [("trajectory_id", pa.string()), ("task_id", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
PAIRS = pa.schema(
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


def write_rows(rows: Iterable[dict[str, str | None]], schema: pa.Schema) -> bytes:
    """A Parquet file of ``rows``, which have the columns of ``schema`` and perhaps more. Same rows, same bytes."""
    file = BytesIO()
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def to_row(example: Example) -> dict[str, str | None]:
    row = example.model_dump(mode="json")
    return {**row, "turns": orjson.dumps(row["turns"]).decode()}


def pair_to_row(pair: Pair) -> dict[str, str | None]:
    row = pair.model_dump(mode="json")
    return {**row, **{name: orjson.dumps(row[name]).decode() for name in ("prefix", "chosen", "rejected")}}


def read_pairs(content: bytes) -> list[Pair]:
    """The pairs of a file that was written with the schema PAIRS."""
    rows = pq.read_table(BytesIO(content), schema=PAIRS).to_pylist()
    nested = ("prefix", "chosen", "rejected")
    return [Pair.model_validate({**row, **{name: orjson.loads(row[name]) for name in nested}}) for row in rows]


def read_examples(content: bytes) -> list[Example]:
    """The examples of a file that ``write_rows`` wrote with the schema EXAMPLES."""
    return [_to_example(row) for row in pq.read_table(BytesIO(content), schema=EXAMPLES).to_pylist()]


def read_some_examples(content: bytes, most: int) -> list[Example]:
    """Those with the least ids, which are digests. Holds only as many, and what is read at once."""
    batches = pq.ParquetFile(BytesIO(content)).iter_batches(AT_ONCE)
    rows = (row for batch in batches for row in batch.to_pylist())
    return [_to_example(row) for row in nsmallest(most, rows, key=lambda row: row["id"])]


def _to_example(row: dict[str, Any]) -> Example:
    return Example.model_validate({**row, "turns": orjson.loads(row["turns"])})
