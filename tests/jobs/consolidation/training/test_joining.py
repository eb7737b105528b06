"""What a tenant with a very long episode costs the others while it is encoded and when it joins their trainer.

``pytest -s -m bench tests/jobs/consolidation/training/test_joining.py``
"""

import multiprocessing
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from unittest.mock import patch

import pytest

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import trainer as trainer_module
from looper.jobs.consolidation.training.job_limits import JobLimits
from looper.jobs.consolidation.training.trainer import run_trainer
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.example_table import EXAMPLE_SCHEMA, example_to_row, write_rows
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.example import Example
from looper.platform.objectstore import ObjectStore, keys
from tests.basemodel.test_long_episode import make_episode
from tests.jobs.consolidation.training.test_trainer import claim, submit_job
from tests.jobs.windows import replace_object
from tests.tiny import FLOAT32

pytestmark = [pytest.mark.usefixtures("one_process"), pytest.mark.bench, pytest.mark.timeout(1800)]

SHORT, LONG = 60, 10_000
MAX_SEQ_LENGTH = 1024
STEPS = 120
JOIN_AT = 40
ALLOWED = 1.2
NO_LIMITS = JobLimits(10**9, 10**12, 10**6)


def encode(folder: Path, example: Example) -> bytes:
    return FileEncoder(folder, MAX_SEQ_LENGTH).encode_examples([example])


def encode_repeatedly(folder: Path, example: Example) -> None:
    while True:
        encode(folder, example)


def put_windows(trainer: TrainerContext, job: Consolidation, example: Example) -> None:
    rows = write_rows([example_to_row(example)], EXAMPLE_SCHEMA)
    replace_object(trainer.store, keys.examples(job.id, "train.parquet"), rows)
    replace_object(trainer.store, keys.examples(job.id, "train.windows.parquet"), encode(trainer.base.folder, example))


def blue_steps(trainer: TrainerContext, joiner: Example) -> list[float]:
    """Return the seconds of each of blue's steps. ``joiner`` joins after ``JOIN_AT`` of them."""
    run = len(trainer.catalog.list_consolidations())
    submit_job(trainer, f"blue-{run}", epochs=200, max_seq_length=MAX_SEQ_LENGTH)
    (blue,) = claim(trainer)
    put_windows(trainer, blue, make_episode(SHORT))
    submit_job(trainer, f"red-{run}", epochs=200, max_seq_length=MAX_SEQ_LENGTH)
    (red,) = claim(trainer)
    put_windows(trainer, red, joiner)
    ends: list[float] = []
    waiting = [blue, red]
    take_step = trainer_module._take_step

    def record(member: object, *arguments: object) -> bool:
        if member.job.id == blue.id:  # type: ignore[attr-defined]
            ends.append(time.perf_counter())
        return take_step(member, *arguments)  # type: ignore[arg-type]

    def next_jobs(_: int) -> list[Consolidation]:
        due = waiting and (len(waiting) == 2 or len(ends) >= JOIN_AT)
        return [waiting.pop(0)] if due else []

    with patch.object(trainer_module, "_take_step", record), patch.object(trainer_module, "QUEUE_POLL_INTERVAL_S", 0):
        run_trainer(
            trainer,
            next_jobs,
            should_stop=lambda: len(ends) > STEPS,
            max_members=8,
            checkpoint_interval_s=600,
            lease_s=600,
            idle_timeout_s=0,
        )
    return [after - before for before, after in pairwise(ends)]


def describe(steps: Sequence[float]) -> str:
    return f"median {median(steps) * 1e3:.0f} ms, longest {max(steps) * 1e3:.0f} ms"


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None) -> SharedBase:
    return SharedBase(base_dir, FLOAT32)


def test_joining(base: SharedBase, catalog: Catalog, store: ObjectStore) -> None:
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16, limits=NO_LIMITS)
    ratios = []
    for _ in range(3):
        short, long = (blue_steps(trainer, make_episode(turns))[JOIN_AT - 2 :] for turns in (SHORT, LONG))
        print(f"beside {SHORT} turns: {describe(short)}; beside {LONG}: {describe(long)}", flush=True)
        ratios.append(max(max(long) / max(short), median(long) / median(short)))
    assert median(ratios) < ALLOWED, ratios


def test_encoding_beside(base: SharedBase, catalog: Catalog, store: ObjectStore) -> None:
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16, limits=NO_LIMITS)
    ratios = []
    for _ in range(3):
        alone = blue_steps(trainer, make_episode(SHORT))
        arguments = (base.folder, make_episode(LONG))
        process = multiprocessing.get_context("spawn").Process(target=encode_repeatedly, args=arguments)
        process.start()
        beside = blue_steps(trainer, make_episode(SHORT))
        assert process.exitcode is None, "encoding failed"
        process.kill()
        process.join()
        print(f"alone: {describe(alone)}; beside the encoding of {LONG} turns: {describe(beside)}", flush=True)
        ratios.append(median(beside) / median(alone))
    assert median(ratios) < ALLOWED, ratios
