"""Where sessions come from: a work place of the gym that lives on, or real tenants one after the other.

Trajectories take the way that consolidation takes (``looper.jobs.synthesis``): the same reader, the same rejections,
the same rendering, the same split by task.

**Real tenants.** A folder with one folder of tau2 simulations per tenant is lived through as one agent that is moved
from business to business: five tenants are five sessions. One tenant's simulations in five parts would be two to four
episodes a session with one held out, all of them under one policy with one set of tools: little to forget, and less to
measure it on. A tenant's whole record is 10 to 20 episodes, of which about a quarter is held out, and its tools and
policy are its own: what comes later does contradict. The tenants' tasks are far beyond a small model, so that the share
of right calls (next-action accuracy) is measured there, not of tasks solved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from looper.gym.generate import Recorded
from looper.gym.policies import run_expert
from looper.gym.sessions import HOLDOUT, TASKS, sessions
from looper.gym.workplace import Workplace
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.pipeline.stages import STAGES
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.readers.openai_chat import READER

TENANTS = 5


@dataclass(frozen=True)
class LearningSession:
    """What an instance lives through between two consolidations: new examples, and the tasks kept from training."""

    name: str
    train: tuple[Example, ...]
    holdout: tuple[Example, ...]


def gym_sessions(instance: str, seed: int) -> list[LearningSession]:
    """The sessions of a work place as its expert works there, every episode a success; ``seed`` draws the tasks.

    Raises InvalidInput if there is no such work place, or it has no sessions.
    """
    if instance not in WORKPLACES:
        raise InvalidInput(f"there is no work place {instance!r}: choose one of {', '.join(WORKPLACES)}")
    return [_session(place.since, [_played(place, seed)]) for place in sessions(WORKPLACES[instance])]


def tenant_sessions(folder: Path) -> list[LearningSession]:
    """The ``TENANTS`` tenants below ``folder`` with the most examples, in the order of their names.

    A tenant whose held-out episodes call no tool is left out: there would be no action to judge. Raises InvalidInput if
    too few are left.
    """
    tenants = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    lived = [_session(tenant.name, _batches(tenant)) for tenant in tenants]
    usable = sorted(filter(_has_actions, lived), key=lambda session: -_size(session))[:TENANTS]
    if len(usable) < TENANTS:
        raise InvalidInput(
            f"{folder} has {len(usable)} folders with held-out tool calls to judge: {TENANTS} are needed"
        )
    return sorted(usable, key=lambda session: session.name)


def _played(place: Workplace, seed: int) -> list[Trajectory]:
    tasks = [place.task(task_id, seed) for task_id in place.task_ids(TASKS)]
    return [READER.trajectory(orjson.loads(Recorded(task, None, run_expert(task)).line())) for task in tasks]


def _batches(tenant: Path) -> list[list[Trajectory]]:
    """Task ids are unique within a tenant only: they get its name before them."""
    return [_of_tenant(tenant.name, batch) for _, batch in read_path(tenant)]


def _of_tenant(tenant: str, batch: Iterable[Trajectory]) -> list[Trajectory]:
    return [trajectory.model_copy(update={"task_id": f"{tenant}/{trajectory.task_id}"}) for trajectory in batch]


def _session(name: str, batches: Sequence[Sequence[Trajectory]]) -> LearningSession:
    """All that succeeded, as it is: what is measured here is training."""
    _, parts = in_memory(batches, HOLDOUT, without=STAGES)
    train, holdout = (tuple(read_examples(parts[part])) for part in ("train.parquet", "holdout.parquet"))
    return LearningSession(name, train, holdout)


def _has_actions(session: LearningSession) -> bool:
    return any(turn.weight and turn.tool_calls for example in session.holdout for turn in example.turns)


def _size(session: LearningSession) -> int:
    return len(session.train) + len(session.holdout)
