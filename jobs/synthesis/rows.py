"""A draft as a row of Ray Data, with what all episodes together are asked for beside it."""

import pickle
from typing import Any

import pyarrow as pa

from looper.jobs.synthesis.credit import worked
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.leaks import asked

DRAFTS = pa.schema(
    [
        ("consolidation", pa.string()),
        ("task", pa.string()),
        ("asked", pa.list_(pa.string())),
        ("worked", pa.list_(pa.string())),  # the tools of an episode that succeeded
        ("draft", pa.binary()),
        ("failure", pa.string()),  # why its batch could not be read, or null
    ]
)
Row = dict[str, Any]


def draft_row(consolidation: str, draft: Draft) -> Row:
    return {
        "consolidation": consolidation,
        "task": draft.source.task_id,
        "asked": asked(draft),
        "worked": worked(draft),
        "draft": pickle.dumps(draft),  # from worker to worker of one job alone
    }


def draft_of(content: bytes) -> Draft:
    draft: Draft = pickle.loads(content)  # noqa: S301 (made by draft_row, in this job)
    return draft
