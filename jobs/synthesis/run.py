"""Turns the batches of many instances into examples, with Ray Data over all of them at once.

Rows are sources first, then drafts that the stages of one episode have seen, then groups of whole tasks; the driver
sees counts only. A group's parts are written as they come, and the report last, so that a job that was killed goes on
where it was. Running it again writes the same bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from looper.jobs.synthesis.asking import AT_ONCE, MOST_TASKS, Asking
from looper.jobs.synthesis.credit import Habits
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.leaks import Asked, alike, doubtful, one_name, words
from looper.jobs.synthesis.model.shared import SHARED, count
from looper.jobs.synthesis.packing import packing
from looper.jobs.synthesis.page import to_html
from looper.jobs.synthesis.parts import PARTS, contents, divide, in_memory
from looper.jobs.synthesis.pipeline import each, together
from looper.jobs.synthesis.report import Report
from looper.jobs.synthesis.rows import DRAFTS, Row, draft_of, draft_row
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import SynthesisSettings
from looper.platform.trajectories.table import from_parquet, from_table

HERE = 2**18
"""Bytes of Parquet that are worked on in seconds where they are asked for. Ray Data takes ten to begin and to end."""

GROUP = 4096
"""About how many trajectories are worked on together: whole tasks, in memory at once."""


@dataclass(frozen=True)
class Known:
    """What the whole of an instance's episodes says: about each of them, and how they are divided."""

    habits: Habits
    names: Mapping[str, str]
    groups: int
    failure: str | None

    def group_of(self, task: str) -> int:
        name = self.names.get(task, task)
        return int(sha256(name.encode()).hexdigest()[:8], 16) % self.groups


def synthesise(
    cohort: Sequence[Consolidation],
    store: ObjectStore,
    holdout: float,
    settings: SynthesisSettings = SynthesisSettings(),  # noqa: B008 (frozen)
    model_dir: Path | None = None,
    here: int = HERE,
) -> dict[str, Report]:
    """The report of each of ``cohort`` by its id, its examples and report being in the store.

    ``holdout`` is the share of tasks that is kept from training. ``model_dir`` is the base's, for stages that ask a
    model and have no endpoint. Up to ``here`` bytes of Parquet are worked on in this process. A consolidation whose
    report is there already is not done again. Raises
    StoreUnavailable if the store fails.
    """
    todo = [job for job in cohort if not store.exists(keys.examples(job.id, "report.json"))]
    batches = None if settings.model.stages else _few(todo, store, here)
    if batches is not None:
        for job in todo:
            _do_here(job, batches, store, holdout, settings, model_dir)
    elif todo:
        _run(todo, store, holdout, settings, model_dir)
    return {job.id: Report.model_validate_json(store.get(keys.examples(job.id, "report.json"))) for job in cohort}


def _few(cohort: Sequence[Consolidation], store: ObjectStore, most: int) -> dict[str, bytes | LooperError] | None:
    """The batches of ``cohort`` by their keys, or why they cannot be read; None if they have over ``most`` bytes."""
    found: dict[str, bytes | LooperError] = {}
    for job in cohort:
        for batch in job.batches:
            key = keys.trajectories(job.instance, batch)
            try:
                content = store.get(key)
            except StoreUnavailable:
                raise
            except LooperError as error:
                found[key] = error
                continue
            most -= len(content)
            if most < 0:
                return None
            found[key] = content
    return found


def _do_here(
    job: Consolidation,
    contents: Mapping[str, bytes | LooperError],
    store: ObjectStore,
    holdout: float,
    settings: SynthesisSettings,
    model_dir: Path | None,
) -> None:
    batches, failures = [], []
    for key in (keys.trajectories(job.instance, batch) for batch in job.batches):
        content = contents[key]
        try:
            if isinstance(content, LooperError):
                raise content
            batches.append(from_parquet(content))
        except (LooperError, pa.ArrowInvalid) as error:
            failures.append(f"{key}: {error}")
    report, files = in_memory(batches, holdout, settings.without, min(failures, default=None))
    _publish(store, job.id, report, files.items(), model_dir, job.recipe.max_context)


def _publish(
    store: ObjectStore,
    id: str,
    report: Report,
    files: Iterable[tuple[str, bytes]],
    model_dir: Path | None,
    max_context: int,
) -> None:
    beside = {f"{stage}.json": keys.examples(id, f"{stage}.json") for stage in SHARED}
    counts = {name: count(name, store.get(key)) for name, key in beside.items() if store.exists(key)}
    measured = None
    for name, content in files:
        store.put(keys.examples(id, name), content)
        if name == "train.parquet" and model_dir is not None:
            measured = packing(content, model_dir, max_context)
    report = report.model_copy(update={"beside": counts, "packing": measured})
    store.put(keys.examples(id, "report.html"), to_html(report, id).encode())
    store.put(keys.examples(id, "report.json"), report.model_dump_json().encode())


def _run(
    cohort: Sequence[Consolidation],
    store: ObjectStore,
    holdout: float,
    settings: SynthesisSettings,
    model_dir: Path | None,
) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    without = settings.without
    sources = [
        {"consolidation": job.id, "key": keys.trajectories(job.instance, batch)}
        for job in cohort
        for batch in job.batches
    ]
    drafts = ray.data.from_items(sources, override_num_blocks=min(len(sources), MOST_TASKS)).map_batches(
        partial(_read, store=store, without=without), batch_format="pyarrow", batch_size=1
    )
    if settings.model.stages:
        tenants = {job.id: job.instance.tenant for job in cohort}
        drafts = Asking(settings.model, model_dir, store, tenants, holdout).ask(drafts)
    drafts = drafts.materialize()
    known = _known(drafts)
    groups = sum(each.groups for each in known.values())
    shared = ray.put(known)
    (
        drafts.map_batches(partial(_assign, known=shared), batch_format="pyarrow")
        .groupby("group", num_partitions=min(groups, MOST_TASKS))
        .map_groups(partial(_write_group, store=store, known=shared, without=without), batch_format="pyarrow")
        .materialize()
    )
    jobs = [
        {
            "id": job.id,
            "groups": known[job.id].groups,
            "failure": known[job.id].failure,
            "max_context": job.recipe.max_context,
        }
        for job in cohort
    ]
    (
        ray.data.from_items(jobs, override_num_blocks=min(len(jobs), MOST_TASKS))
        .map(partial(_finish, store=store, holdout=holdout, model_dir=model_dir))
        .materialize()
    )


def _read(sources: pa.Table, store: ObjectStore, without: tuple[str, ...]) -> Iterator[pa.Table]:
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


def _known(drafts: ray.data.Dataset) -> dict[str, Known]:
    """Of each consolidation, from sums over the blocks of its rows."""
    light = drafts.select_columns(["consolidation", "task", "asked", "worked", "failure"])
    sums: defaultdict[str, Habits] = defaultdict(Habits.none)
    tasks: defaultdict[str, set[tuple[str, Asked]]] = defaultdict(set)
    counts: Counter[str] = Counter()
    failures: defaultdict[str, list[str]] = defaultdict(list)
    for row in light.map_batches(_sum_up, batch_format="pyarrow", batch_size=None).iter_rows():
        found = orjson.loads(row["sums"])
        id = found["consolidation"]
        sums[id] += Habits.from_json(found["habits"])
        tasks[id].update((task, Asked(same, marks)) for task, same, marks in found["tasks"])
        counts[id] += found["count"]
        failures[id] += found["failures"]
    near = _near(drafts, {id: doubt for id, some in tasks.items() if (doubt := doubtful(some))})
    return {
        id: Known(
            sums[id],
            one_name(sorted((task, what.same) for task, what in tasks[id]), near[id]),
            max(1, ceil(counts[id] / GROUP)),
            min(failures[id], default=None),
        )
        for id in {*counts, *failures}
    }


def _near(drafts: ray.data.Dataset, doubt: Mapping[str, frozenset[str]]) -> defaultdict[str, list[tuple[str, str]]]:
    """Of each consolidation, its tasks that ask for the same in nearly the same words: only the doubtful are read."""
    said: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
    if doubt:
        asking = drafts.select_columns(["consolidation", "task", "asked", "draft"])
        for row in asking.map_batches(partial(_words, doubt=doubt), batch_format="pyarrow").iter_rows():
            said[row["consolidation"]].add((row["task"], row["marks"], row["words"]))
    return defaultdict(list, {id: [*alike(some)] for id, some in said.items()})


def _words(rows: pa.Table, doubt: Mapping[str, frozenset[str]]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in ("consolidation", "task", "marks", "words")])
    found = [
        {
            "consolidation": row["consolidation"],
            "task": row["task"],
            "marks": Asked(*row["asked"]).marks,
            "words": words(draft_of(row["draft"])),
        }
        for row in rows.to_pylist()
        if row["task"] in doubt.get(row["consolidation"], ())
    ]
    return pa.Table.from_pylist(found, schema=schema)


def _sum_up(rows: pa.Table) -> pa.Table:
    by: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows.to_pylist():
        by[row["consolidation"]].append(row)
    sums = [
        {
            "consolidation": id,
            "habits": Habits.of(row["worked"] for row in some if row["worked"]).to_json(),
            "tasks": sorted({(row["task"], *row["asked"]) for row in some if row["task"]}),
            "count": sum(row["task"] is not None for row in some),
            "failures": [row["failure"] for row in some if row["failure"]],
        }
        for id, some in by.items()
    ]
    return pa.table({"sums": pa.array([orjson.dumps(each) for each in sums], pa.binary())})


def _assign(rows: pa.Table, known: Any) -> pa.Table:
    """The group of each draft: a name that sorts, and says whose it is."""
    found: dict[str, Known] = ray.get(known)
    kept = rows.filter(pa.compute.is_valid(rows["draft"]))
    groups = [
        _group_name(id, found[id].group_of(task))
        for id, task in zip(kept["consolidation"].to_pylist(), kept["task"].to_pylist(), strict=True)
    ]
    return kept.select(["draft"]).append_column("group", pa.array(groups, pa.string()))


def _group_name(consolidation: str, group: int) -> str:
    return f"{consolidation}/{group:05d}"


def _part(group: str, what: str) -> str:
    consolidation, _, number = group.partition("/")
    return keys.examples(consolidation, f"parts/{number}.{what}")


def _write_group(rows: pa.Table, store: ObjectStore, known: Any, without: tuple[str, ...]) -> pa.Table:
    """The stages that see whole tasks; what comes of them goes into the store."""
    group = rows["group"][0].as_py()
    if not store.exists(_part(group, PARTS[-1])):
        of: Known = ray.get(known)[group.partition("/")[0]]
        by_task: defaultdict[str, list[Draft]] = defaultdict(list)
        for content in rows["draft"]:
            draft = draft_of(content.as_py())
            by_task[of.names.get(draft.source.task_id, draft.source.task_id)].append(draft)
        tasks = [together(name, by_task[name], of.habits, of.names, without) for name in sorted(by_task)]
        for what, part in zip(PARTS, contents(tasks), strict=True):
            store.put(_part(group, what), part)
    return pa.table({"group": pa.array([group], pa.string())})


def _finish(job: Row, store: ObjectStore, holdout: float, model_dir: Path | None) -> Row:
    """Put the parts of all groups together, the report last."""
    id = job["id"]
    groups = [_group_name(id, group) for group in range(job["groups"])]
    parts = [
        lambda what, group=group: store.get(_part(group, what))
        for group in groups
        if store.exists(_part(group, PARTS[-1]))
    ]
    report, files = divide(parts, holdout, job["failure"])
    _publish(store, id, report, files, model_dir, job["max_context"])
    store.delete(keys.examples(id, "parts"))
    return {"id": id}
