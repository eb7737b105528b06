"""Run one variant of synthesis over one corpus in a process of its own, and print the measurement.

``bench.py`` starts it as ``python -m looper.benchmarks.synthesis.variants VARIANT INSTANCES TRAJECTORIES FOLDER``, so
that each measurement has its own peak memory.
"""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.corpus import Corpus
from looper.demo.peak_memory import PeakMemory
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import (
    combine_partitions,
    partition_files,
    synthesize_in_memory,
)
from looper.jobs.synthesis.pipeline.draft_rows import BATCH_ROWS, decode_draft, encode_draft
from looper.jobs.synthesis.pipeline.stages import drafts_from_batch, run_episode_stages, run_task_stages
from looper.jobs.synthesis.stages.credit import ToolHabits, successful_tools
from looper.jobs.synthesis.stages.task_leaks import (
    RequestDigests,
    canonical_task_names,
    digest_request,
    find_possible_leaks,
    find_similar_tasks,
    request_words,
)
from looper.platform.domain.consolidation import Consolidation
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import from_parquet, from_table

HOLDOUT_SHARE = 0.2
"""Share of held-out tasks."""

ONE_WORKER, TWO_WORKERS, LOOPER = "looper, 1 worker", "looper, 2 workers", "looper"
"""Names of the variants that are Looper itself."""

Synthesize = Callable[[Sequence[Consolidation], ObjectStore, Path], None]
"""Writes the examples of each consolidation to the store. The folder is that of the store."""


class SynthesisMeasurement(BaseModel):
    """Measurement of a variant after a warm-up with a corpus of 20 trajectories."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    """Duration of the synthesis."""
    peak_memory_bytes: int
    """Peak memory of the process and its children during the synthesis."""
    digest: str
    """Digest of all examples. It does not depend on their order."""


def run_plain_loop(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """Run all stages of ``jobs`` in a loop over the trajectories of ``store``. ``folder`` is not used."""
    for job in jobs:
        batches = [from_parquet(store.get(keys.trajectories(job.instance, batch))) for batch in job.batches]
        _put_examples(store, job, synthesize_in_memory(batches, HOLDOUT_SHARE)[1])


def run_datasets_map(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """Run the stages of one episode with ``Dataset.map`` in two processes, and the stages of a task in a plain loop.

    Args:
        jobs: The consolidations.
        store: Store of the examples.
        folder: Folder of the store. The cache of the dataset is in it too.
    """
    from datasets import Dataset

    for job in jobs:
        files = [str(folder / keys.trajectories(job.instance, batch)) for batch in job.batches]
        trajectories = Dataset.from_parquet(files, cache_dir=str(folder / "datasets")).with_format("arrow")
        drafts = trajectories.map(
            _run_episode_stages,
            batched=True,
            batch_size=BATCH_ROWS,
            remove_columns=trajectories.column_names,
            num_proc=2,
        ).with_format(None)
        habits = ToolHabits.from_tool_sequences(filter(None, drafts["successful_tools"]))
        names = _canonical_task_names(drafts)
        rows_by_task: defaultdict[str, list[int]] = defaultdict(list)
        for index, task in enumerate(drafts["task"]):
            rows_by_task[names.get(task, task)].append(index)
        tasks = [
            run_task_stages(
                name, [decode_draft(row["draft"]) for row in drafts.select(rows_by_task[name])], habits, names
            )
            for name in sorted(rows_by_task)
        ]
        contents = dict(partition_files(tasks))
        _put_examples(store, job, dict(combine_partitions([contents.__getitem__], HOLDOUT_SHARE)[1]))


def _canonical_task_names(drafts: Any) -> dict[str, str]:
    """Return the common name of each task that asks for the same as another one."""
    tasks = [
        (task, RequestDigests(*digests))
        for task, digests in zip(drafts["task"], drafts["request_digests"], strict=True)
    ]
    possible_leaks = find_possible_leaks(tasks)
    requests = (
        (task, digests.identifier_digest, request_words(decode_draft(drafts[index]["draft"])))
        for index, (task, digests) in enumerate(tasks)
        if task in possible_leaks
    )
    text_digests = ((task, digests.text_digest) for task, digests in tasks)
    return canonical_task_names(text_digests, find_similar_tasks(requests))


def _run_episode_stages(rows: pa.Table) -> pa.Table:
    drafts = [run_episode_stages(draft) for draft in drafts_from_batch(from_table(rows))]
    return pa.table(
        {
            "task": [draft.source.task_id for draft in drafts],
            "request_digests": [digest_request(draft) for draft in drafts],
            "successful_tools": pa.array([successful_tools(draft) for draft in drafts], pa.list_(pa.string())),
            "draft": [encode_draft(draft) for draft in drafts],
        }
    )


def run_looper_with_ray(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """Run Looper's synthesis of ``jobs`` in ``store`` with Ray Data, whatever their size. ``folder`` is not used."""
    from looper.jobs.synthesis.pipeline.run import synthesize

    synthesize(jobs, store, HOLDOUT_SHARE, max_in_process_bytes=0)


def run_looper(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """Run Looper's synthesis of ``jobs`` in ``store``, which handles small jobs in-process. ``folder`` is not used."""
    from looper.jobs.synthesis.pipeline.run import synthesize

    synthesize(jobs, store, HOLDOUT_SHARE)


VARIANTS: Mapping[str, tuple[Synthesize, int]] = {
    "plain loop": (run_plain_loop, 0),
    "datasets.map": (run_datasets_map, 0),
    ONE_WORKER: (run_looper_with_ray, 1),
    TWO_WORKERS: (run_looper_with_ray, 2),
    LOOPER: (run_looper, 2),
}
"""The function of each variant, and the number of Ray CPUs that it needs. With 0, Ray is not started."""


def open_store(folder: Path) -> ObjectStore:
    """Return an object store in the local ``folder``."""
    return ObjectStore(str(folder), LocalFileSystem(), str(folder))


def measure_variant(variant: str, corpus: Corpus, folder: Path) -> SynthesisMeasurement:
    """Measure a variant in this process.

    Args:
        variant: A key of ``VARIANTS``.
        corpus: The corpus, which is in the store already.
        folder: Folder of the store. The examples are deleted at the end.

    Returns:
        The measurement.
    """
    synthesize, cpus = VARIANTS[variant]
    store = open_store(folder)
    with _start_ray(cpus):
        small = Corpus(1, 20)
        small.write(store)
        warm_up_jobs = small.build_jobs("warm")
        _delete_examples(store, warm_up_jobs)
        synthesize(warm_up_jobs, store, folder)
        jobs = corpus.build_jobs(variant.replace(" ", "-").replace(",", ""))
        _delete_examples(store, jobs)
        with PeakMemory() as memory:
            started = time.perf_counter()
            synthesize(jobs, store, folder)
            seconds = time.perf_counter() - started
    digest = digest_examples(store, jobs)
    _delete_examples(store, [*jobs, *warm_up_jobs])
    return SynthesisMeasurement(seconds=round(seconds, 3), peak_memory_bytes=memory.peak_bytes, digest=digest)


@contextmanager
def _start_ray(cpus: int) -> Iterator[None]:
    if not cpus:
        yield
        return
    import ray

    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _put_examples(store: ObjectStore, job: Consolidation, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        store.put(keys.examples(job.id, name), content)


def _delete_examples(store: ObjectStore, jobs: Sequence[Consolidation]) -> None:
    for job in jobs:
        store.delete(f"examples/{job.id}")


def digest_examples(store: ObjectStore, jobs: Sequence[Consolidation]) -> str:
    """Digest the examples of all jobs, independent of their order.

    Args:
        store: Store of the examples.
        jobs: The jobs.

    Returns:
        Hexadecimal SHA-256.
    """
    digests = sorted(
        sha256(f"{job.instance} {side} {example.model_dump_json()}".encode()).digest()
        for job in jobs
        for side in ("train", "holdout")
        for example in read_examples(store.get(keys.examples(job.id, f"{side}.parquet")))
    )
    return sha256(b"".join(digests)).hexdigest()


def main() -> None:
    """Measure the variant of the command line, and print the measurement as JSON."""
    variant, instances, trajectories, folder = sys.argv[1:]
    print(measure_variant(variant, Corpus(int(instances), int(trajectories)), Path(folder)).model_dump_json())


if __name__ == "__main__":
    main()
