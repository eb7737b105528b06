"""The workload of the consolidation benchmark: N instances of the gym, the same for all variants.

The variants and ``joining`` call ``prepare_workloads``.
"""

from dataclasses import dataclass
from pathlib import Path

from looper.gym.generate import record_episodes
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.pipeline.stages import OPTIONAL_STAGES
from looper.platform.domain.recipe import Recipe
from looper.platform.trajectories.ingest import read_path

TASKS_PER_INSTANCE = 24
"""Default number of tasks: a day's work. It leaves about 17 episodes of 190 tokens for training, which is 3 steps."""
HOLDOUT_SHARE = 0.2
"""Share of the tasks that is held out."""
RECIPE = Recipe(rank=16, alpha=32, learning_rate=2e-3, epochs=1, batch_size=8, max_seq_length=512)
"""The recipe of all consolidations."""


@dataclass(frozen=True)
class InstanceWorkload:
    """The data of one instance."""

    instance: str
    """Name of the instance, as ``tenant/instance``."""
    folder: Path
    """Has ``trajectories.jsonl``, and what is made of it: ``train.windows.parquet`` and ``holdout.windows.parquet``."""


def prepare_workloads(n: int, folder: Path, model_dir: Path, tasks: int = TASKS_PER_INSTANCE) -> list[InstanceWorkload]:
    """Write the data of several instances: the four workplaces in turn, each time with another seed.

    Args:
        n: Number of instances.
        folder: Parent of the instances' folders.
        model_dir: Folder of the base model, for which the examples are encoded.
        tasks: Number of tasks per instance.

    Returns:
        The workloads, one per instance.
    """
    workplaces = list(WORKPLACES.values())
    workloads = []
    for number in range(n):
        workplace, seed = workplaces[number % len(workplaces)], number // len(workplaces)
        workload = InstanceWorkload(
            f"{workplace.instance}-{seed}", folder / f"{workplace.instance.replace('/', '-')}-{seed}"
        )
        workloads.append(workload)
        workload.folder.mkdir(parents=True, exist_ok=True)
        file = workload.folder / "trajectories.jsonl"
        file.write_bytes(b"".join(episode.to_jsonl() for episode in record_episodes(workplace, seed, tasks)))
        ((_, trajectories),) = read_path(file)
        encoder = FileEncoder(model_dir, RECIPE.max_seq_length)
        _, parts = synthesize_in_memory([trajectories], HOLDOUT_SHARE, disabled_stages=OPTIONAL_STAGES, encoder=encoder)
        for part in ("train.windows.parquet", "holdout.windows.parquet"):
            (workload.folder / part).write_bytes(parts[part])
    return workloads
