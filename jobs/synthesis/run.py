"""Turns the batches of many instances into examples, with Ray Data over all of them at once.

A row is a batch first, then a trajectory with its fate, then a consolidation with its report. Batches are read, and
examples written, in the workers; the driver sees reports only. Running it again writes the same bytes.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis import stages
from looper.jobs.synthesis.split import holdout_tasks
from looper.jobs.synthesis.table import EXAMPLES, REJECTED, to_row, write_rows
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import from_parquet

_TRAJECTORIES = pa.schema(
    [
        ("consolidation", pa.string()),
        *EXAMPLES,
        ("fingerprint", pa.string()),
        ("reason", pa.string()),  # why it is no example, or null
        ("failure", pa.string()),  # why its batch could not be read, or null
    ]
)
_REPORTS = pa.schema([("consolidation", pa.string()), ("report", pa.string())])

MOST_TASKS = 32
"""Of a stage. Each costs tens of milliseconds, which the small batches of many instances need not all pay."""

Row = dict[str, Any]
"""A row of the schema _TRAJECTORIES; absent columns are null."""


class Report(BaseModel):
    """What became of a consolidation's trajectories: ``trajectories == train + holdout + sum(rejected.values())``."""

    model_config = ConfigDict(frozen=True)

    trajectories: int
    train: int
    holdout: int
    rejected: dict[str, int]
    failure: str | None
    """Why there is nothing to train on, in one line, or None."""


def synthesise(cohort: Sequence[Consolidation], store: ObjectStore, holdout: float) -> dict[str, Report]:
    """The report of each of ``cohort`` by its id, its examples and report being in the store.

    ``holdout`` is the share of tasks that is kept from training. A consolidation whose report is there already is not
    done again. Raises StoreUnavailable if the store fails.
    """
    todo = [job for job in cohort if not store.exists(keys.examples(job.id, "report.json"))]
    if todo:
        _run(todo, store, holdout)
    return {job.id: Report.model_validate_json(store.get(keys.examples(job.id, "report.json"))) for job in cohort}


def _run(cohort: Sequence[Consolidation], store: ObjectStore, holdout: float) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    sources = [
        {"consolidation": job.id, "key": keys.trajectories(job.instance, batch)}
        for job in cohort
        for batch in job.batches
    ]
    (
        ray.data.from_items(sources, override_num_blocks=min(len(sources), MOST_TASKS))
        .map_batches(partial(_read, store=store), batch_format="pyarrow")
        .groupby("consolidation", num_partitions=min(len(cohort), MOST_TASKS))
        .map_groups(partial(_write, store=store, holdout=holdout), batch_format="pyarrow")
        .materialize()
    )


def _read(sources: pa.Table, store: ObjectStore) -> pa.Table:
    rows: list[Row] = []
    for source in sources.to_pylist():
        try:
            batch = from_parquet(store.get(source["key"]))
        except StoreUnavailable:
            raise
        except (LooperError, pa.ArrowInvalid) as error:
            rows.append({"consolidation": source["consolidation"], "failure": f"{source['key']}: {error}"})
        else:
            rows += [{**row, "consolidation": source["consolidation"]} for row in rows_of(batch)]
    return pa.Table.from_pylist(rows, schema=_TRAJECTORIES)


def rows_of(batch: Sequence[Trajectory]) -> list[Row]:
    """Each trajectory of one batch as an example, or with the reason why it is none."""
    rows: list[Row] = []
    for trajectory, reason in zip(batch, stages.judge_outcomes(batch), strict=True):
        example = stages.render(trajectory)
        if example is None:
            reason = reason or stages.NO_AGENT_TURN
        row: Row = {"trajectory_id": trajectory.id, "task_id": trajectory.task_id, "reason": reason}
        if example is not None and reason is None:
            row |= {**to_row(example), "fingerprint": stages.fingerprint(example)}
        rows.append(row)
    return rows


def _write(group: pa.Table, store: ObjectStore, holdout: float) -> pa.Table:
    rows = group.to_pylist()
    id = rows[0]["consolidation"]
    report, parts = divide(rows, holdout)
    for part, content in parts.items():
        store.put(keys.examples(id, part), content)
    encoded = report.model_dump_json().encode()
    store.put(keys.examples(id, "report.json"), encoded)
    return pa.Table.from_pylist([{"consolidation": id, "report": encoded.decode()}], schema=_REPORTS)


def divide(rows: Sequence[Row], holdout: float) -> tuple[Report, dict[str, bytes]]:
    """Drop repeats, split by task; return the report and the content of ``train``, ``holdout`` and ``rejected``.

    The order of ``rows``, which a shuffle leaves to chance, does not matter.
    """
    unreadable = sorted(row["failure"] for row in rows if row.get("failure"))
    found = sorted(
        (row for row in rows if not row.get("failure")), key=lambda row: (row["task_id"], row["trajectory_id"])
    )
    candidates = [row for row in found if row["reason"] is None]
    repeated = stages.drop_repeats(row["fingerprint"] for row in candidates)
    kept = [row for row, reason in zip(candidates, repeated, strict=True) if reason is None]
    rejected = [row for row in found if row["reason"] is not None]
    rejected += [{**row, "reason": reason} for row, reason in zip(candidates, repeated, strict=True) if reason]
    held = holdout_tasks({row["task_id"] for row in kept}, holdout)
    train = [row for row in kept if row["task_id"] not in held]
    heldout = [row for row in kept if row["task_id"] in held]
    reasons = Counter(row["reason"] for row in rejected)
    report = Report(
        trajectories=len(found),
        train=len(train),
        holdout=len(heldout),
        rejected=dict(sorted(reasons.items())),
        failure=unreadable[0] if unreadable else _failure(len(found), len(train), len(heldout), reasons),
    )
    return report, {
        "train.parquet": write_rows(train, EXAMPLES),
        "holdout.parquet": write_rows(heldout, EXAMPLES),
        "rejected.parquet": write_rows(rejected, REJECTED),
    }


def _failure(found: int, train: int, heldout: int, reasons: Counter[str]) -> str | None:
    if not train:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return f"no examples left after filtering: of {found} trajectories, {why or 'none'}; ingest successful episodes"
    if not heldout:
        return f"the {train} examples are of one task, so that none can be held out for the gate: ingest a second task"
    return None
