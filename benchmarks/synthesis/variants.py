"""One corpus through the stages in one way, in a process of its own, which prints what it took.

python -m looper.benchmarks.synthesis.variants VARIANT INSTANCES TRAJECTORIES FOLDER
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
from looper.jobs.synthesis.output.output_files import PARTS, contents, divide, in_memory
from looper.jobs.synthesis.pipeline.draft_rows import AT_ONCE, draft_of, to_bytes
from looper.jobs.synthesis.pipeline.stages import drafts_of, each, together
from looper.jobs.synthesis.stages.credit import Habits, worked
from looper.jobs.synthesis.stages.task_leaks import TaskRequest, alike, asked, doubtful, one_name, words
from looper.platform.domain.consolidation import Consolidation
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import from_parquet, from_table

HOLDOUT = 0.2

Work = Callable[[Sequence[Consolidation], ObjectStore, Path], None]
"""Puts the examples of each consolidation into the store; the folder is the store's."""


class SynthesisMeasurement(BaseModel):
    """Of one way, once it was warm: it had done a corpus of 20 trajectories before."""

    model_config = ConfigDict(frozen=True)

    seconds: float
    peak_memory_bytes: int
    digest: str
    """Of all examples, in whatever order."""


def plain_loop(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    for job in jobs:
        batches = [from_parquet(store.get(keys.trajectories(job.instance, batch))) for batch in job.batches]
        _put(store, job, in_memory(batches, HOLDOUT)[1])


def datasets_map(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """The stages of one episode in a map of two processes; those of a task in a loop over what it wrote."""
    from datasets import Dataset

    for job in jobs:
        files = [str(folder / keys.trajectories(job.instance, batch)) for batch in job.batches]
        read = Dataset.from_parquet(files, cache_dir=str(folder / "datasets")).with_format("arrow")
        drafts = read.map(
            _map_each, batched=True, batch_size=AT_ONCE, remove_columns=read.column_names, num_proc=2
        ).with_format(None)
        habits = Habits.of(filter(None, drafts["worked"]))
        names = _names(drafts)
        tasks: defaultdict[str, list[int]] = defaultdict(list)
        for at, task in enumerate(drafts["task"]):
            tasks[names.get(task, task)].append(at)
        found = [
            together(name, [draft_of(row["draft"]) for row in drafts.select(tasks[name])], habits, names)
            for name in sorted(tasks)
        ]
        made = dict(zip(PARTS, contents(found), strict=True))
        _put(store, job, dict(divide([made.__getitem__], HOLDOUT)[1]))


def _names(drafts: Any) -> dict[str, str]:
    found = [(task, TaskRequest(*what)) for task, what in zip(drafts["task"], drafts["asked"], strict=True)]
    doubt = doubtful(found)
    said = (
        (task, what.marks, words(draft_of(drafts[at]["draft"])))
        for at, (task, what) in enumerate(found)
        if task in doubt
    )
    return one_name(((task, what.same) for task, what in found), alike(said))


def _map_each(rows: pa.Table) -> pa.Table:
    drafts = [each(draft) for draft in drafts_of(from_table(rows))]
    return pa.table(
        {
            "task": [draft.source.task_id for draft in drafts],
            "asked": [asked(draft) for draft in drafts],
            "worked": pa.array([worked(draft) for draft in drafts], pa.list_(pa.string())),
            "draft": [to_bytes(draft) for draft in drafts],
        }
    )


def looper_over_ray(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    from looper.jobs.synthesis.pipeline.run import synthesize

    synthesize(jobs, store, HOLDOUT, here=0)


def looper_as_it_is(jobs: Sequence[Consolidation], store: ObjectStore, folder: Path) -> None:
    """What is small is worked on where it is asked for."""
    from looper.jobs.synthesis.pipeline.run import synthesize

    synthesize(jobs, store, HOLDOUT)


VARIANTS: Mapping[str, tuple[Work, int]] = {
    "plain loop": (plain_loop, 0),
    "datasets.map": (datasets_map, 0),
    "looper, 1 worker": (looper_over_ray, 1),
    "looper, 2 workers": (looper_over_ray, 2),
    "looper": (looper_as_it_is, 2),
}
"""What works, and the CPUs of the Ray that it needs."""


def store_in(folder: Path) -> ObjectStore:
    return ObjectStore(str(folder), LocalFileSystem(), str(folder))


def measure(variant: str, corpus: Corpus, folder: Path) -> SynthesisMeasurement:
    """``folder`` holds the corpus, and nothing more afterwards."""
    work, cpus = VARIANTS[variant]
    store = store_in(folder)
    with _ray(cpus):
        small = Corpus(1, 20)
        small.write(store)
        _clear(store, small.jobs("warm"))
        work(small.jobs("warm"), store, folder)
        jobs = corpus.jobs(variant.replace(" ", "-").replace(",", ""))
        _clear(store, jobs)
        with PeakMemory() as memory:
            began = time.perf_counter()
            work(jobs, store, folder)
            seconds = time.perf_counter() - began
    examples = digest(store, jobs)
    _clear(store, [*jobs, *small.jobs("warm")])
    return SynthesisMeasurement(seconds=round(seconds, 3), peak_memory_bytes=memory.bytes, digest=examples)


@contextmanager
def _ray(cpus: int) -> Iterator[None]:
    if not cpus:
        yield
        return
    import ray

    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _put(store: ObjectStore, job: Consolidation, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        store.put(keys.examples(job.id, name), content)


def _clear(store: ObjectStore, jobs: Sequence[Consolidation]) -> None:
    for job in jobs:
        store.delete(f"examples/{job.id}")


def digest(store: ObjectStore, jobs: Sequence[Consolidation]) -> str:
    found = sorted(
        sha256(f"{job.instance} {side} {example.model_dump_json()}".encode()).digest()
        for job in jobs
        for side in ("train", "holdout")
        for example in read_examples(store.get(keys.examples(job.id, f"{side}.parquet")))
    )
    return sha256(b"".join(found)).hexdigest()


def main() -> None:
    variant, instances, trajectories, folder = sys.argv[1:]
    print(measure(variant, Corpus(int(instances), int(trajectories)), Path(folder)).model_dump_json())


if __name__ == "__main__":
    main()
