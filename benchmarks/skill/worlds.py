"""The worlds of the benchmark, what an agent has lived through in each, and the tasks that it is asked afterwards.

Every arm gets the same recorded episodes and the same tasks. ``bench.py`` and the arms use this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from looper.gym.generate import RecordedEpisode, record_episodes
from looper.gym.workplace import Workplace, WorkplaceTask
from looper.gym.workplaces import WORKPLACES
from looper.platform.domain.errors import InvalidInput

WORLDS: tuple[Workplace, ...] = (*WORKPLACES.values(),)
"""The worlds that can be chosen. A new one is one more element."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that search indexes can be kept by experience
class Experience:
    """What the agent of a world has lived through before the tasks."""

    world: Workplace
    """The world."""
    seed: int
    """Seed of the episodes and of the tasks."""
    episodes: tuple[RecordedEpisode, ...]
    """The recorded episodes, with their noise and their failures, in the order in which they happened."""

    @cached_property
    def successes(self) -> tuple[RecordedEpisode, ...]:
        """The episodes that solved their task. An agent sees the outcome of its episodes, but not their noise."""
        return tuple(episode for episode in self.episodes if episode.result.success)


def find_worlds(names: Sequence[str]) -> list[Workplace]:
    """Return worlds by name.

    Args:
        names: Names of instances, such as ``harbor/dispatch``. None at all: every world.

    Returns:
        The worlds, in the order of the names.

    Raises:
        InvalidInput: A world does not exist.
    """
    known = {world.instance: world for world in WORLDS}
    if unknown := [name for name in names if name not in known]:
        raise InvalidInput(f"world {unknown[0]!r} does not exist: choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(WORLDS)


def record_experience(world: Workplace, seed: int, episodes: int) -> Experience:
    """Record what the agent of a world has lived through.

    Args:
        world: The world.
        seed: Seed of the tasks and of the noise.
        episodes: Number of episodes.

    Returns:
        The experience, which is always the same for the same arguments.
    """
    return Experience(world, seed, tuple(record_episodes(world, seed, episodes)))


def draw_tasks(experience: Experience, count: int) -> list[WorkplaceTask]:
    """Draw the tasks that every arm is asked: those that come after the recorded ones.

    Args:
        experience: What was recorded. A task with the same request as a recorded one is not drawn.
        count: Number of tasks.

    Returns:
        The tasks. No two of them have the same request.

    Raises:
        InvalidInput: The world has too few different requests.
    """
    world, recorded = experience.world, len(experience.episodes)
    requests = {episode.task.request for episode in experience.episodes}
    tasks: list[WorkplaceTask] = []
    for task_id in world.task_ids(recorded + 4 * count)[recorded:]:
        task = world.task(task_id, experience.seed)
        if task.request not in requests:
            requests.add(task.request)
            tasks.append(task)
        if len(tasks) == count:
            return tasks
    raise InvalidInput(f"world {world.instance} has no {count} tasks with different requests")
