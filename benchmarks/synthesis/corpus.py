"""Write any number of trajectories to an object store, and make consolidation jobs of them.

``bench.py`` and ``variants.py`` use it. The trajectories are the gym's episodes with planted defects. After the last
one, the same episodes follow as new tasks.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from looper.benchmarks.synthesis.planted_defects.trajectories import plant_defects
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import to_parquet

MAX_BATCH_TRAJECTORIES = 500
"""Maximum number of trajectories in one file."""


@dataclass(frozen=True)
class Corpus:
    """Trajectories of several instances, the same number for each."""

    instances: int
    """Number of instances."""
    trajectories: int
    """Number of trajectories of all instances together."""

    @property
    def name(self) -> str:
        """Name that is different for every size."""
        return f"{self.instances}x{self.trajectories // self.instances}"

    def write(self, store: ObjectStore) -> None:
        """Write the trajectories. They are the same bytes each time, and files that exist are not written again.

        Args:
            store: Where to write.
        """
        for number in range(self.instances):
            for batch, (first, end) in self._batches().items():
                key = keys.trajectories(self._instance(number), batch)
                if not store.exists(key):
                    store.put(key, to_parquet(_episode(number, index) for index in range(first, end)))

    def build_jobs(self, variant: str) -> list[Consolidation]:
        """Make one consolidation job per instance.

        Args:
            variant: Name of the variant, which becomes a part of the job ids.

        Returns:
            The jobs.
        """
        now = datetime.now(UTC)
        return [
            Consolidation(
                id=f"{variant}-{self.name}-{number}",
                instance=self._instance(number),
                state=ConsolidationState.SYNTHESISING,
                base="none",
                recipe=Recipe(),
                batches=tuple(self._batches()),
                parent=None,
                priority=0,
                attempts=0,
                owner=None,
                reason=None,
                verdict=None,
                digest=None,
                progress=None,
                created_at=now,
                started_at=now,
                ended_at=None,
                updated_at=now,
            )
            for number in range(self.instances)
        ]

    def _instance(self, number: int) -> InstanceName:
        return InstanceName.parse(f"gym/{self.name}-{number}")

    def _batches(self) -> dict[str, tuple[int, int]]:
        """Return the first and the end index of each file of an instance, by batch name."""
        count = self.trajectories // self.instances
        step = MAX_BATCH_TRAJECTORIES
        return {f"b{first:06d}": (first, min(first + step, count)) for first in range(0, count, step)}


def _episode(instance: int, index: int) -> Trajectory:
    """Return an episode of one workplace. After the last one, the same episodes follow as new tasks."""
    episodes = _episodes_by_workplace()[instance % len(_episodes_by_workplace())]
    copy, index = divmod(index, len(episodes))
    return _with_new_task(episodes[index], f"{instance}.{copy}")


@cache
def _episodes_by_workplace() -> list[list[Trajectory]]:
    corpus = plant_defects(0)
    return [
        [
            trajectory
            for batch, workplace in zip(corpus.batches, corpus.instances, strict=True)
            if workplace == name
            for trajectory in batch
        ]
        for name in dict.fromkeys(corpus.instances)
    ]


def _with_new_task(trajectory: Trajectory, copy: str) -> Trajectory:
    """Return the same episode with another task id and another request."""
    return Trajectory.create(
        task_id=f"{trajectory.task_id}-{copy}",
        format=trajectory.format,
        steps=tuple(
            step.model_copy(update={"content": f"{step.content} (case {copy})"}) if step.source == "user" else step
            for step in trajectory.steps
        ),
        outcome=trajectory.outcome,
        tools=trajectory.tools,
    )
