"""The source files of one workplace while they are filled with episodes, and the ground truth about these episodes.

The modules that plant defects add to it: ``duplicates.py``, ``repetition.py``, ``sensitive_cases.py`` and
``tool_errors.py``. ``trajectories.py`` collects the result.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from looper.benchmarks.synthesis.planted_defects.episode_script import (
    NOTE,
    EpisodeScript,
    FinishedEpisode,
    add_optional_tools,
)
from looper.benchmarks.synthesis.planted_defects.ground_truth import PlantedGroup, PlantedSpan, PlantedText
from looper.gym.workplace import Workplace, WorkplaceTask
from looper.platform.domain.trajectory import Trajectory

FILE_COUNT = 2
"""Source files per workplace."""


class EpisodeFiles:
    """The source files of one workplace. Every task that it creates has a different request.

    Attributes:
        workplace: The workplace, with the optional tools.
        batches: Trajectories of each file.
        spans: Ground truth about steps.
        groups: Ground truth about whole trajectories.
        texts: Ground truth about texts.
        rng: Random numbers for everything that is planted.
    """

    def __init__(self, workplace: Workplace, seed: int) -> None:
        """Create empty files.

        Args:
            workplace: A workplace of the gym.
            seed: Seed of the tasks and of what is planted.
        """
        self.workplace = add_optional_tools(workplace)
        self.batches: list[list[Trajectory]] = [[] for _ in range(FILE_COUNT)]
        self.spans: list[PlantedSpan] = []
        self.groups: list[PlantedGroup] = []
        self.texts: list[PlantedText] = []
        self.rng = Random(f"{seed} {workplace.instance} planted")
        self._seed = seed
        self._task_count = 0
        self._requests: set[str] = set()

    def new_task(self, *, blocked: bool = False) -> WorkplaceTask:
        """Create a task with a request that no earlier task has.

        Args:
            blocked: Whether the obstacles of the workplace are in the way of the task.

        Returns:
            The task.
        """
        while True:
            task = self.workplace.task(self.new_task_id(), self._seed)
            if task.request not in self._requests:
                self._requests.add(task.request)
                return replace(task, obstacles=self.workplace.obstacles if blocked else ())

    def new_task_id(self) -> str:
        """Return a task id that was not used before."""
        self._task_count += 1
        return f"{self.workplace.instance.partition('/')[2]}-{self._task_count:04d}"

    def add_episode(self, episode: FinishedEpisode, file: int | None = None) -> str:
        """Add an episode and the ground truth about it.

        Args:
            episode: The episode.
            file: Index of the file. By default it is drawn.

        Returns:
            Id of the trajectory.
        """
        self.batches[self.rng.randrange(FILE_COUNT) if file is None else file].append(episode.trajectory)
        self.spans += episode.spans
        self.texts += episode.texts
        return episode.trajectory.id

    def shuffle(self) -> None:
        """Shuffle the trajectories of each file."""
        for batch in self.batches:
            self.rng.shuffle(batch)


def play_expert(
    task: WorkplaceTask,
    optional_tools: Sequence[str] = (),
    *,
    request: str | None = None,
    answers: dict[str, str] | None = None,
    note: str = "settled as asked",
) -> EpisodeScript:
    """Play an expert who also uses optional tools. Only the agent's last message is missing.

    Args:
        task: The task.
        optional_tools: Names of the optional tools that the expert uses.
        request: The user's message, by default the request of the task.
        answers: Answers of optional tools, by tool.
        note: Text of the note, if the expert writes one.

    Returns:
        The episode, which the caller finishes.
    """
    script = EpisodeScript(task, request, answers=answers)
    script.call_tool(script.read_call)
    for tool in optional_tools:
        if tool != NOTE:
            script.call_tool(script.optional_call(tool))
    script.finish_task()
    if NOTE in optional_tools:
        script.call_tool(script.optional_call(NOTE, note))
    return script
