"""The source files of one work place, as they fill with episodes and the truth about them."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from looper.benchmarks.synthesis.planted_defects.script import NOTE, Script, Written, furnish
from looper.benchmarks.synthesis.planted_defects.truth import Group, PlantedText, Span
from looper.gym.workplace import Workplace, WorkplaceTask
from looper.platform.domain.trajectory import Trajectory

FILES = 2
"""Source files of a work place."""


class EpisodeFiles:
    """The files of one work place, as they fill. No two tasks that it gives out have one request."""

    def __init__(self, place: Workplace, seed: int) -> None:
        self.place = furnish(place)
        self.files: list[list[Trajectory]] = [[] for _ in range(FILES)]
        self.spans: list[Span] = []
        self.groups: list[Group] = []
        self.texts: list[PlantedText] = []
        self.rng = Random(f"{seed} {place.instance} planted")
        self._seed = seed
        self._tasks = 0
        self._requests: set[str] = set()

    def task(self, *, blocked: bool = False) -> WorkplaceTask:
        """A task that nobody had yet, with the house's own error in its way or without."""
        while True:
            task = self.place.task(self.task_id(), self._seed)
            if task.request not in self._requests:
                self._requests.add(task.request)
                return replace(task, obstacles=self.place.obstacles if blocked else ())

    def task_id(self) -> str:
        self._tasks += 1
        return f"{self.place.instance.partition('/')[2]}-{self._tasks:04d}"

    def put(self, written: Written, file: int | None = None) -> str:
        """File an episode, in any file if none is given; returns its id."""
        self.files[self.rng.randrange(FILES) if file is None else file].append(written.trajectory)
        self.spans += written.spans
        self.texts += written.texts
        return written.trajectory.id

    def shuffle(self) -> None:
        for file in self.files:
            self.rng.shuffle(file)


def play(
    task: WorkplaceTask,
    way: Sequence[str] = (),
    *,
    request: str | None = None,
    answers: dict[str, str] | None = None,
    note: str = "settled as asked",
) -> Script:
    """An episode of an expert who also uses the tools of ``way``, all but for the last word."""
    script = Script(task, request, answers=answers)
    script.make(script.read)
    for tool in way:
        if tool != NOTE:
            script.make(script.extra(tool))
    script.work()
    if NOTE in way:
        script.make(script.extra(NOTE, note))
    return script
