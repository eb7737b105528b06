"""What the consolidation benchmark consolidates: N instances of the gym, alike for all who do it."""

from dataclasses import dataclass
from pathlib import Path

from looper.gym.generate import record
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.pipeline.stages import STAGES
from looper.platform.domain.consolidation import Recipe
from looper.platform.trajectories.ingest import read_path

TASKS = 24
"""Of each instance, unless told otherwise: a day's work. About 17 episodes of 190 tokens to train on, three steps."""
HOLDOUT = 0.2
RECIPE = Recipe(rank=16, alpha=32, learning_rate=2e-3, epochs=1, batch_size=8, max_seq_length=512)


@dataclass(frozen=True)
class InstanceWorkload:
    """One instance's work: ``trajectories.jsonl`` as it comes in, ``train.parquet`` and ``holdout.parquet`` of it."""

    instance: str
    folder: Path


def prepare_work(n: int, folder: Path, tasks: int = TASKS) -> list[InstanceWorkload]:
    """Write the work of ``n`` instances, so many tasks of each, below ``folder``.

    Four work places, each with its seeds.
    """
    places = list(WORKPLACES.values())
    works = []
    for number in range(n):
        place, seed = places[number % len(places)], number // len(places)
        work = InstanceWorkload(f"{place.instance}-{seed}", folder / f"{place.instance.replace('/', '-')}-{seed}")
        works.append(work)
        work.folder.mkdir(parents=True, exist_ok=True)
        file = work.folder / "trajectories.jsonl"
        file.write_bytes(b"".join(one.line() for one in record(place, seed, tasks)))
        ((_, trajectories),) = read_path(file)
        _, parts = in_memory([trajectories], HOLDOUT, without=STAGES)
        for part in ("train.parquet", "holdout.parquet"):
            (work.folder / part).write_bytes(parts[part])
    return works
