"""Drafts as rows of Ray Data tables.

``run.py`` maps ``read_drafts`` over the stored batches. The other columns hold what the whole instance must know of
each episode, so that later steps need not decode every draft.
"""

from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.pipeline.stages import run_episode_stages
from looper.jobs.synthesis.stages.credit import successful_tools
from looper.jobs.synthesis.stages.task_leaks import digest_request
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.table import from_table

BATCH_ROWS = 256
"""Number of trajectories that are read and passed on together."""

DRAFT_SCHEMA = pa.schema(
    [
        ("consolidation", pa.string()),
        ("task", pa.string()),
        ("task_hash", pa.uint32()),  # spreads tasks evenly over partitions
        ("request_digests", pa.list_(pa.string())),
        ("successful_tools", pa.list_(pa.string())),  # empty for an episode that did not succeed
        ("draft", pa.binary()),
        ("failure", pa.string()),  # why the batch could not be read, or null
    ]
)
"""Columns of a table of drafts. A row with a failure has no task and no draft."""

Row = dict[str, Any]
"""One row of a Ray Data table, by column name."""

_DRAFT = TypeAdapter(Draft)
"""Reading and writing JSON is several times faster than pickling these models."""
_CODEC = pa.Codec("lz4")


def decode_draft(content: bytes) -> Draft:
    """Decode a draft.

    Args:
        content: Bytes that ``encode_draft`` returned.

    Returns:
        The draft.
    """
    length = int.from_bytes(content[:4], "big")
    return _DRAFT.validate_json(_CODEC.decompress(content[4:], length, asbytes=True))


def encode_draft(draft: Draft) -> bytes:
    """Encode a draft as compressed JSON, small enough for Ray's object store to hold the drafts of all instances.

    Args:
        draft: The draft.

    Returns:
        The length of the JSON text in 4 bytes, then the text compressed with LZ4.
    """
    content = _DRAFT.dump_json(draft)
    return len(content).to_bytes(4, "big") + bytes(_CODEC.compress(content, asbytes=True))


def hash_task(task: str) -> int:
    """Hash the name of a task.

    Args:
        task: Name of the task.

    Returns:
        An unsigned 32-bit number that is the same on every machine.
    """
    return int.from_bytes(sha256(task.encode()).digest()[:4], "big")


def read_drafts(sources: pa.Table, store: ObjectStore, disabled_stages: tuple[str, ...]) -> Iterator[pa.Table]:
    """Read stored batches of trajectories and run the stages that see one episode.

    Args:
        sources: Table with the columns ``consolidation`` and ``key`` (of the batch in the object store).
        store: Object store with the batches.
        disabled_stages: Names of stages to leave out.

    Yields:
        Tables with the columns of ``DRAFT_SCHEMA``. A batch that cannot be read gives one row with a failure.

    Raises:
        StoreUnavailable: The object store does not answer.
    """
    yield pa.Table.from_pylist([], schema=DRAFT_SCHEMA)  # gives the columns to a result without any drafts
    for source in sources.to_pylist():
        try:
            content = store.get(source["key"])
            has_labels = _has_labels(content)
            for record_batch in pq.ParquetFile(BytesIO(content)).iter_batches(BATCH_ROWS):
                drafts = [
                    run_episode_stages(Draft.from_trajectory(trajectory, has_labels=has_labels), disabled_stages)
                    for trajectory in from_table(pa.table(record_batch))
                ]
                rows = [to_draft_row(source["consolidation"], draft) for draft in drafts]
                yield pa.Table.from_pylist(rows, schema=DRAFT_SCHEMA)
        except StoreUnavailable:
            raise
        except (LooperError, pa.ArrowInvalid) as error:
            row = {"consolidation": source["consolidation"], "failure": f"{source['key']}: {error}"}
            yield pa.Table.from_pylist([row], schema=DRAFT_SCHEMA)


def _has_labels(content: bytes) -> bool:
    success = pq.read_table(BytesIO(content), columns=["success"])["success"]
    return bool(success.null_count < len(success))


def to_draft_row(consolidation: str, draft: Draft) -> Row:
    """Convert a draft to a row.

    Args:
        consolidation: Id of the consolidation that the draft belongs to.
        draft: The draft, after the episode stages.

    Returns:
        A row with the columns of ``DRAFT_SCHEMA``, without a failure.
    """
    return {
        "consolidation": consolidation,
        "task": draft.source.task_id,
        "task_hash": hash_task(draft.source.task_id),
        "request_digests": digest_request(draft),
        "successful_tools": successful_tools(draft),
        "draft": encode_draft(draft),
    }
