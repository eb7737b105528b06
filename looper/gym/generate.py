"""Make the trajectories of ``examples/``: mostly an expert's, some with noise, some failed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import orjson

from looper.gym.episode import EpisodeResult
from looper.gym.policies import Noise, kinds_of_noise, run_expert, run_noisy
from looper.gym.workplace import Workplace, WorkplaceTask
from looper.gym.workplaces import WORKPLACES

TASKS = 40
NOISY = 0.2


@dataclass(frozen=True)
class Recorded:
    """An episode and what is known of it that its trajectory does not say. ``noise`` is None for the expert."""

    task: WorkplaceTask
    noise: Noise | None
    result: EpisodeResult

    def line(self) -> bytes:
        """Return the trajectory as a line of OpenAI chat JSONL."""
        return orjson.dumps(
            {
                "task_id": self.task.id,
                "messages": self.result.messages,
                "tools": self.task.tools(),
                "success": self.result.success,
                "reward": float(self.result.success),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


def record(workplace: Workplace, seed: int, tasks: int = TASKS) -> Iterator[Recorded]:
    """Play the first ``tasks`` tasks of ``workplace``, one in five with noise. Deterministic from ``seed``."""
    for task_id in workplace.task_ids(tasks):
        task = workplace.task(task_id, seed)
        rng = Random(f"{seed} {workplace.instance} {task_id} policy")
        if rng.random() < NOISY:
            noise = rng.choice(kinds_of_noise(task))
            yield Recorded(task, noise, run_noisy(task, noise, rng))
        else:
            yield Recorded(task, None, run_expert(task))


def write_examples(out: Path, seed: int) -> list[Path]:
    """Write ``<tenant>/<instance>.jsonl`` of every work place under ``out``; return the files."""
    files = []
    for workplace in WORKPLACES.values():
        file = out / f"{workplace.instance}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(recorded.line() for recorded in record(workplace, seed)))
        files.append(file)
    return files
