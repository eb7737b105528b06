"""Generate the trajectories of ``examples/``: most are an expert's, some contain noise, and some failed.

``python -m looper.gym`` and the benchmarks call this module. It runs the policies on tasks of the workplaces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import orjson

from looper.gym.episode import EpisodeResult
from looper.gym.notes import with_notes, write_notes
from looper.gym.policies import Noise, possible_failures, possible_noise, run_expert, run_noisy
from looper.gym.workplace import Workplace, WorkplaceTask
from looper.gym.workplaces import WORKPLACES

TASK_COUNT = 40
"""Tasks of each workplace in ``examples/``."""
NOISE_SHARE = 0.2
"""Share of the episodes that contain noise."""
NOTES_EVERY = 4
"""In every fourth episode the agent has its workplace's rules as notes in its prompt."""


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode, together with facts that its trajectory does not contain."""

    task: WorkplaceTask
    """The task that the agent worked on."""
    noise: Noise | None
    """What went wrong on purpose; None for the expert."""
    result: EpisodeResult
    """The messages and the outcome."""
    notes: str = ""
    """Notes that the agent has in its prompt."""

    def to_jsonl(self) -> bytes:
        """Return the trajectory as one line of OpenAI chat JSONL, with its newline."""
        messages = self.result.messages
        return orjson.dumps(
            {
                "task_id": self.task.id,
                "messages": with_notes(messages, self.notes) if self.notes else messages,
                "tools": self.task.tools(),
                "success": self.result.success,
                "reward": float(self.result.success),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


def record_episodes(
    workplace: Workplace, seed: int, tasks: int = TASK_COUNT, *, failure_share: float = 0.0
) -> Iterator[RecordedEpisode]:
    """Run an agent on the first tasks of a workplace; one episode in five contains noise.

    The same arguments always give the same episodes.

    Args:
        workplace: The workplace.
        seed: Seed of the tasks and of the noise.
        tasks: Number of tasks.
        failure_share: Share of the episodes, from 0 to 1, that fail in one of several ways. The others then succeed.
            With 0, only noise makes episodes fail, as in ``examples/``.

    Yields:
        One episode per task, in the order of the task ids.
    """
    for number, task_id in enumerate(workplace.task_ids(tasks)):
        task = workplace.task(task_id, seed)
        notes = write_notes(workplace) if number % NOTES_EVERY == 0 else ""
        rng = Random(f"{seed} {workplace.instance} {task_id} policy")
        if failure_share and rng.random() < failure_share:
            noise = rng.choice(possible_failures(task))
            yield RecordedEpisode(task, noise, run_noisy(task, noise, rng, recovers=False), notes)
        elif rng.random() < NOISE_SHARE:
            noise = rng.choice(possible_noise(task))
            recovers = True if failure_share else None
            yield RecordedEpisode(task, noise, run_noisy(task, noise, rng, recovers=recovers), notes)
        else:
            yield RecordedEpisode(task, None, run_expert(task), notes)


def write_examples(out: Path, seed: int) -> list[Path]:
    """Write ``<tenant>/<instance>.jsonl`` for every workplace.

    Args:
        out: Folder to write to.
        seed: Seed of the tasks and of the noise.

    Returns:
        The files that were written.
    """
    files = []
    for workplace in WORKPLACES.values():
        file = out / f"{workplace.instance}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(episode.to_jsonl() for episode in record_episodes(workplace, seed)))
        files.append(file)
    return files
