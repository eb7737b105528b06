"""Any number of the gym's trajectories in an object store: its episodes with planted defects, as ever new tasks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from looper.benchmarks.synthesis.planted_defects.trajectories import planted
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, Recipe
from looper.platform.domain.names import InstanceName
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import to_parquet

BATCH = 500
"""Trajectories in a file at most."""


@dataclass(frozen=True)
class Corpus:
    """``trajectories`` in all, the same number for each of ``instances``."""

    instances: int
    trajectories: int

    @property
    def name(self) -> str:
        return f"{self.instances}x{self.trajectories // self.instances}"

    def write(self, store: ObjectStore) -> None:
        """The same bytes each time. What is there already is not made again."""
        for number in range(self.instances):
            for batch, (first, last) in self._batches().items():
                key = keys.trajectories(self._instance(number), batch)
                if not store.exists(key):
                    store.put(key, to_parquet(_episode(number, place) for place in range(first, last)))

    def jobs(self, variant: str) -> list[Consolidation]:
        """One for each instance, to be worked on by ``variant``."""
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
        each = self.trajectories // self.instances
        return {f"b{first:06d}": (first, min(first + BATCH, each)) for first in range(0, each, BATCH)}


def _episode(instance: int, place: int) -> Trajectory:
    """One of a work place; after the last, the same come again as other tasks."""
    episodes = _places()[instance % len(_places())]
    copy, place = divmod(place, len(episodes))
    return _renamed(episodes[place], f"{instance}.{copy}")


@cache
def _places() -> list[list[Trajectory]]:
    made = planted(0)
    return [
        [each for batch, of in zip(made.batches, made.instances, strict=True) if of == name for each in batch]
        for name in dict.fromkeys(made.instances)
    ]


def _renamed(trajectory: Trajectory, copy: str) -> Trajectory:
    """The same episode of another task: one that goes by another id, and asks for something else."""
    return Trajectory.of(
        task_id=f"{trajectory.task_id}-{copy}",
        format=trajectory.format,
        steps=tuple(
            step.model_copy(update={"content": f"{step.content} (case {copy})"}) if step.source == "user" else step
            for step in trajectory.steps
        ),
        outcome=trajectory.outcome,
        tools=trajectory.tools,
    )
