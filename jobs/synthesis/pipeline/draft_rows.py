"""Drafts as rows of Ray Data: read from batches, and what the whole of an instance has to know of each."""

from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.pipeline.stages import each
from looper.jobs.synthesis.stages.credit import worked
from looper.jobs.synthesis.stages.task_leaks import asked
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore
from looper.platform.trajectories.table import from_table

AT_ONCE = 256
"""Trajectories that are read and passed on together."""

DRAFTS = pa.schema(
    [
        ("consolidation", pa.string()),
        ("task", pa.string()),
        ("place", pa.uint32()),  # of its task, in an order that is as good as random
        ("asked", pa.list_(pa.string())),
        ("worked", pa.list_(pa.string())),  # the tools of an episode that succeeded
        ("draft", pa.binary()),
        ("failure", pa.string()),  # why its batch could not be read, or null
    ]
)
Row = dict[str, Any]

_DRAFT = TypeAdapter(Draft)
"""JSON is read and written several times faster than pickles of models."""
_CODEC = pa.Codec("lz4")


def draft_of(content: bytes) -> Draft:
    """What ``to_bytes`` made bytes of."""
    length = int.from_bytes(content[:4], "big")
    return _DRAFT.validate_json(_CODEC.decompress(content[4:], length, asbytes=True))


def to_bytes(draft: Draft) -> bytes:
    """Few enough that the drafts of all instances can be in Ray's object store."""
    content = _DRAFT.dump_json(draft)
    return len(content).to_bytes(4, "big") + bytes(_CODEC.compress(content, asbytes=True))


def place_of(task: str) -> int:
    return int.from_bytes(sha256(task.encode()).digest()[:4], "big")


def read(sources: pa.Table, store: ObjectStore, without: tuple[str, ...]) -> Iterator[pa.Table]:
    """What the stages of one episode make of each, and what all episodes together will be asked for."""
    yield pa.Table.from_pylist([], schema=DRAFTS)  # so that a batch without any has columns, too
    for source in sources.to_pylist():
        try:
            content = store.get(source["key"])
            labelled = _labelled(content)
            for some in pq.ParquetFile(BytesIO(content)).iter_batches(AT_ONCE):
                drafts = [each(Draft.of(t, labelled=labelled), without) for t in from_table(pa.table(some))]
                rows = [draft_row(source["consolidation"], draft) for draft in drafts]
                yield pa.Table.from_pylist(rows, schema=DRAFTS)
        except StoreUnavailable:
            raise
        except (LooperError, pa.ArrowInvalid) as error:
            row = {"consolidation": source["consolidation"], "failure": f"{source['key']}: {error}"}
            yield pa.Table.from_pylist([row], schema=DRAFTS)


def _labelled(content: bytes) -> bool:
    success = pq.read_table(BytesIO(content), columns=["success"])["success"]
    return bool(success.null_count < len(success))


def draft_row(consolidation: str, draft: Draft) -> Row:
    return {
        "consolidation": consolidation,
        "task": draft.source.task_id,
        "place": place_of(draft.source.task_id),
        "asked": asked(draft),
        "worked": worked(draft),
        "draft": to_bytes(draft),
    }
