"""Synthesis: turns the stored trajectories of many instances into training examples, in one Ray Data job.

The queue worker calls ``synthesize``. Rows are sources first, then drafts after the episode stages (``draft_rows.py``),
then partitions of whole tasks (``partitions.py``). The driver process sees summaries only. The files of a partition are
written when it is done and the report last, so that a killed job continues where it was. A second run writes the same
bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.synthesis.llm import model_factory
from looper.jobs.synthesis.llm.model_factory import OpenModel
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.publish import ExamplePublisher
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.pipeline.draft_rows import Row, read_drafts
from looper.jobs.synthesis.pipeline.instance_summary import (
    InstanceSummary,
    aggregate_block,
    collect_texts,
    merge_aggregates,
    summarize,
)
from looper.jobs.synthesis.pipeline.llm_actors import LLMStages
from looper.jobs.synthesis.pipeline.partitions import merge_partitions, plan_partitions, write_partitions
from looper.jobs.synthesis.stages.task_leaks import find_possible_leaks
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import SynthesisSettings
from looper.platform.trajectories.table import from_parquet

MAX_IN_PROCESS_BYTES = 2**18
"""Maximum bytes of Parquet that are processed in the calling process, which takes seconds.

Ray's workers would take as long to start.
"""


class SynthesisStalled(Exception):
    """Ray's workers made no progress for too long."""


POLL_INTERVAL_S = 1.0
"""Seconds between two signs of life while stages call a language model."""

MAX_TASKS_PER_CPU = 4
"""Maximum number of Ray tasks of one step for each CPU.

When a task ends, Ray Data leaves its CPU idle for a tenth of a second or two before the next one begins.
"""


def synthesize(
    cohort: Sequence[Consolidation],
    store: ObjectStore,
    holdout: float,
    settings: SynthesisSettings = SynthesisSettings(),  # noqa: B008 (frozen)
    base: BaseModelSource | None = None,
    max_in_process_bytes: int = MAX_IN_PROCESS_BYTES,
    *,
    open_model: OpenModel | None = None,
    on_progress: Callable[[], object] = lambda: None,
    stall_timeout_s: float | None = None,
    resources: Mapping[str, float] | None = None,
) -> dict[str, SynthesisReport]:
    """Turn the trajectories of some consolidations into examples, and write these and the reports to the store.

    A consolidation whose report is in the store already is not processed again.

    Args:
        cohort: The consolidations.
        store: Object store with the trajectories, which also receives the results.
        holdout: Share of tasks that is kept from training, 0 to 1.
        settings: Stages to run, and the language model for those that need one.
        base: The base model for which the examples are encoded. None: nothing is encoded, so nothing can be trained.
        max_in_process_bytes: Maximum bytes of Parquet that are processed in this process instead of Ray's workers.
        open_model: Opens the language model for stages that need one. Default: ``model_factory.open_model``, with
            ``base`` if the settings name no endpoint.
        on_progress: Called after each consolidation that was processed in this process, or each block of Ray Data's.
        stall_timeout_s: Seconds without such progress after which Ray's workers are killed. None: never. Stages that
            call a language model may take longer for a block, so with them only their own deadlines count.
        resources: Custom resources of Ray that keep its workers on the nodes for synthesis. Default: any node.

    Returns:
        The report of each consolidation, by its id.

    Raises:
        StoreUnavailable: The object store does not answer.
        SynthesisStalled: Ray's workers made no progress for ``stall_timeout_s``. They are killed.
    """
    if open_model is None:
        open_model = partial(model_factory.open_model, settings.model, base)
    missing = [job for job in cohort if not store.exists(keys.examples(job.id, "report.json"))]
    publisher = ExamplePublisher(store, base, {job.id: job.recipe for job in missing}, settings.reasoning)
    batches = None if settings.model.stages else _read_small_batches(missing, store, max_in_process_bytes)
    if batches is not None:
        for job in missing:
            _run_in_process(job, batches, publisher, holdout, settings)
            on_progress()
    elif missing:
        options: Any = {"num_cpus": 0, "num_returns": "streaming", "max_retries": 0, "resources": dict(resources or {})}
        steps = ray.remote(**options)(_run_with_ray).remote(
            missing, publisher, holdout, settings, open_model, dict(resources or {})
        )
        _follow(steps, on_progress, None if settings.model.stages else stall_timeout_s)
    return {
        job.id: SynthesisReport.model_validate_json(store.get(keys.examples(job.id, "report.json"))) for job in cohort
    }


def _follow(steps: Any, on_progress: Callable[[], object], stall_timeout_s: float | None) -> None:
    """Wait for the end of ``_run_with_ray``, which runs in a worker of Ray so that it can be killed if it hangs."""
    while True:
        ready, _ = ray.wait([steps], timeout=stall_timeout_s or POLL_INTERVAL_S, fetch_local=False)
        if not ready:
            if stall_timeout_s is None:
                on_progress()
                continue
            ray.cancel(steps, force=True, recursive=True)
            raise SynthesisStalled(f"synthesis made no progress for {stall_timeout_s:g} s")
        try:
            ray.get(next(steps))
        except StopIteration:
            return
        on_progress()


def _read_small_batches(
    cohort: Sequence[Consolidation], store: ObjectStore, max_bytes: int
) -> dict[str, bytes | LooperError] | None:
    """Read all batches of ``cohort``.

    Returns:
        The content of each batch by its key, or the error that prevents reading it. None if the batches have more than
        ``max_bytes`` bytes together.
    """
    contents: dict[str, bytes | LooperError] = {}
    bytes_left = max_bytes
    for job in cohort:
        for batch in job.batches:
            key = keys.trajectories(job.instance, batch)
            try:
                content = store.get(key)
            except StoreUnavailable:
                raise
            except LooperError as error:
                contents[key] = error
                continue
            bytes_left -= len(content)
            if bytes_left < 0:
                return None
            contents[key] = content
    return contents


def _run_in_process(
    job: Consolidation,
    contents: Mapping[str, bytes | LooperError],
    publisher: ExamplePublisher,
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
    report, files = synthesize_in_memory(
        batches,
        holdout,
        settings.disabled_stages,
        min(failures, default=None),
        publisher.encoder(job.id),
        job.recipe,
    )
    publisher.publish(job.id, report, files.items())


def _run_with_ray(
    cohort: Sequence[Consolidation],
    publisher: ExamplePublisher,
    holdout: float,
    settings: SynthesisSettings,
    open_model: OpenModel,
    resources: Mapping[str, float],
) -> Iterator[None]:
    """Process ``cohort`` with Ray Data. Yield after each block."""
    where: Any = {"resources": resources} if resources else {}
    ray.data.DataContext.get_current().enable_progress_bars = False
    sources = [
        {"consolidation": job.id, "key": keys.trajectories(job.instance, batch)}
        for job in cohort
        for batch in job.batches
    ]
    drafts = _dataset(sources).map_batches(
        partial(read_drafts, store=publisher.store, disabled_stages=settings.disabled_stages),
        batch_format="pyarrow",
        batch_size=1,
        **where,
    )
    if settings.model.stages:
        tenants = {job.id: job.instance.tenant for job in cohort}
        drafts = LLMStages(settings.model, open_model, publisher.store, tenants, holdout, where).run(drafts)
    blocks = []
    for bundle in drafts.iter_internal_ref_bundles():  # unlike ``materialize``, it says when a block is done
        blocks += [block.ref for block in bundle.blocks]
        yield
    block_refs = ray.put(blocks)
    summaries = _summarize_blocks([job.id for job in cohort], len(blocks), block_refs, where)
    summaries_ref = ray.put(summaries)
    write = partial(
        write_partitions,
        publisher=publisher,
        summaries=summaries_ref,
        block_refs=block_refs,
        holdout=holdout,
        disabled_stages=settings.disabled_stages,
    )
    yield from _run_to_the_end(
        _dataset([{"partitions": partitions} for partitions in plan_partitions(summaries)]).map(write, **where)
    )
    partitioned = [{"consolidation": id} for id, summary in summaries.items() if summary.num_partitions > 1]
    if partitioned:
        merge = partial(merge_partitions, publisher=publisher, summaries=summaries_ref, holdout=holdout)
        yield from _run_to_the_end(_dataset(partitioned).map(merge, **where))


def _run_to_the_end(dataset: ray.data.Dataset) -> Iterator[None]:
    for _ in dataset.iter_internal_ref_bundles():
        yield


def _summarize_blocks(
    consolidations: Sequence[str], num_blocks: int, block_refs: Any, where: Mapping[str, Any]
) -> dict[str, InstanceSummary]:
    """Summarize each consolidation. Only drafts of tasks that may have several names are decoded, for their texts."""
    sums = _dataset(_block_rows(range(num_blocks))).map(partial(aggregate_block, block_refs=block_refs), **where)
    aggregates = merge_aggregates(sums.iter_rows())
    text_rows: Iterable[Row] = ()
    possible_leaks = {
        id: tasks for id, aggregate in aggregates.items() if (tasks := find_possible_leaks(aggregate.tasks))
    }
    if possible_leaks:
        blocks = sorted({block for id in possible_leaks for block in aggregates[id].blocks})
        collect = partial(collect_texts, block_refs=block_refs, possible_leaks=ray.put(possible_leaks))
        text_rows = _dataset(_block_rows(blocks)).map(collect, **where).iter_rows()
    return summarize(consolidations, aggregates, text_rows)


def _block_rows(blocks: Iterable[int]) -> list[Row]:
    return [{"block": number} for number in blocks]


def _dataset(rows: list[Row]) -> ray.data.Dataset:
    max_tasks = MAX_TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), max_tasks))
