"""Turns the batches of many instances into examples, with Ray Data over all of them at once.

Rows are sources first, then drafts that the stages of one episode have seen (``rows.py``), then groups of whole tasks
(``shares.py``); the driver sees counts only. A group's parts are written as they come, and the report last, so that a
job that was killed goes on where it was. Running it again writes the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.output.publish import Publisher
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.pipeline.draft_rows import Row, read
from looper.jobs.synthesis.pipeline.llm_actors import LLMStages
from looper.jobs.synthesis.pipeline.partitions import (
    InstanceSummary,
    aggregate_block,
    collect_texts,
    finish,
    merge_aggregates,
    plan_partitions,
    summarize,
    write_partition,
)
from looper.jobs.synthesis.stages.task_leaks import doubtful
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import SynthesisSettings
from looper.platform.trajectories.table import from_parquet

HERE = 2**18
"""Bytes of Parquet that are worked on in seconds where they are asked for: Ray's workers take as long to start."""

TASKS_PER_CPU = 4
"""Of a stage at most. When one ends, Ray Data lets its CPU wait a tenth of a second or two before the next begins."""


def synthesize(
    cohort: Sequence[Consolidation],
    store: ObjectStore,
    holdout: float,
    settings: SynthesisSettings = SynthesisSettings(),  # noqa: B008 (frozen)
    model_dir: Path | None = None,
    here: int = HERE,
) -> dict[str, SynthesisReport]:
    """The report of each of ``cohort`` by its id, its examples and report being in the store.

    ``holdout`` is the share of tasks that is kept from training. ``model_dir`` is the base's, for stages that ask a
    model and have no endpoint. Up to ``here`` bytes of Parquet are worked on in this process. A consolidation whose
    report is there already is not done again. Raises
    StoreUnavailable if the store fails.
    """
    todo = [job for job in cohort if not store.exists(keys.examples(job.id, "report.json"))]
    publisher = Publisher(store, model_dir, {job.id: job.recipe.max_seq_length for job in todo})
    batches = None if settings.model.stages else _few(todo, store, here)
    if batches is not None:
        for job in todo:
            _do_here(job, batches, publisher, holdout, settings)
    elif todo:
        _run(todo, publisher, holdout, settings)
    return {
        job.id: SynthesisReport.model_validate_json(store.get(keys.examples(job.id, "report.json"))) for job in cohort
    }


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
    publisher: Publisher,
    holdout: float,
    settings: SynthesisSettings,
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
    report, files = in_memory(batches, holdout, settings.disabled_stages, min(failures, default=None))
    publisher.publish(job.id, report, files.items())


def _run(cohort: Sequence[Consolidation], publisher: Publisher, holdout: float, settings: SynthesisSettings) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    sources = [
        {"consolidation": job.id, "key": keys.trajectories(job.instance, batch)}
        for job in cohort
        for batch in job.batches
    ]
    drafts = _over(sources).map_batches(
        partial(read, store=publisher.store, without=settings.disabled_stages), batch_format="pyarrow", batch_size=1
    )
    if settings.model.stages:
        tenants = {job.id: job.instance.tenant for job in cohort}
        drafts = LLMStages(settings.model, publisher.model_dir, publisher.store, tenants, holdout).ask(drafts)
    drafts = drafts.materialize()
    blocks = drafts.to_arrow_refs()
    shared = ray.put(blocks)
    found = _know([job.id for job in cohort], len(blocks), shared)
    known = ray.put(found)
    write = partial(
        write_partition,
        publisher=publisher,
        known=known,
        blocks=shared,
        holdout=holdout,
        without=settings.disabled_stages,
    )
    _over([{"groups": groups} for groups in plan_partitions(found)]).map(write).materialize()
    several = [{"id": id} for id, of in found.items() if of.groups > 1]
    if several:
        _over(several).map(partial(finish, publisher=publisher, known=known, holdout=holdout)).materialize()


def _know(ids: Sequence[str], blocks: int, shared: Any) -> dict[str, InstanceSummary]:
    """Of each consolidation. Most drafts are not looked into: only of tasks that may go by several names, the words."""
    sums = merge_aggregates(_over(_numbered(range(blocks))).map(partial(aggregate_block, blocks=shared)).iter_rows())
    said: Iterable[Row] = ()
    if doubt := {id: some for id, of in sums.items() if (some := doubtful(of.tasks))}:
        where = sorted({block for id in doubt for block in sums[id].blocks})
        said = _over(_numbered(where)).map(partial(collect_texts, blocks=shared, doubt=ray.put(doubt))).iter_rows()
    return summarize(ids, sums, said)


def _numbered(blocks: Iterable[int]) -> list[Row]:
    return [{"block": number} for number in blocks]


def _over(rows: list[Row]) -> ray.data.Dataset:
    most = TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), most))
