"""Load the sessions of the forgetting benchmark: from a workplace of the gym, or from the trajectories of real tenants.

``bench.py`` calls it. Trajectories take the same path as in a consolidation (``looper.jobs.synthesis``): the same
reader, the same rejections, the same rendering, and the same split by task.

**Real tenants.** The source is a folder with one folder of tau2 simulations per tenant. They are used as the sessions
of one agent that moves from business to business: five tenants are five sessions. The alternative is to split the
simulations of one tenant in five. This gives two to four episodes per session with one held out, all under one policy
with one set of tools. There is little to forget in that, and less to measure it with. All simulations of a tenant are
10 to 20 episodes, of which about a quarter is held out. Each tenant has its own tools and policy, so later sessions do
contradict earlier ones. A small model cannot solve the tenants' tasks. Therefore the share of correct calls
(next-action accuracy) is measured there, not the share of solved tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from looper.gym.generate import RecordedEpisode
from looper.gym.policies import run_expert
from looper.gym.sessions import HOLDOUT_SHARE, TASKS_PER_SESSION, build_sessions
from looper.gym.workplace import Workplace
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.pipeline.stages import OPTIONAL_STAGES
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.readers.openai_chat import READER

TENANT_COUNT = 5
"""Tenants that are used, one session each."""


@dataclass(frozen=True)
class LearningSession:
    """The examples of one consolidation."""

    name: str
    """Name of the session: a month in the gym, or the tenant."""
    train: tuple[Example, ...]
    """Examples to train on."""
    holdout: tuple[Example, ...]
    """Examples of the held-out tasks."""


def build_gym_sessions(instance: str, seed: int) -> list[LearningSession]:
    """Let the expert of a workplace do the tasks of each of its sessions. All episodes are successes.

    Args:
        instance: Name of the workplace.
        seed: Seed that selects the tasks.

    Returns:
        The sessions in order of time.

    Raises:
        InvalidInput: There is no such workplace, or it has no sessions.
    """
    if instance not in WORKPLACES:
        raise InvalidInput(f"There is no workplace {instance!r}. Choose one of {', '.join(WORKPLACES)}.")
    months = build_sessions(WORKPLACES[instance])
    return [_build_session(month.since, [_play_expert(month, seed)]) for month in months]


def load_tenant_sessions(folder: Path) -> list[LearningSession]:
    """Load the ``TENANT_COUNT`` tenants with the most examples.

    A tenant whose held-out episodes have no tool call is left out, because there is no action to evaluate.

    Args:
        folder: Folder with one folder of tau2 simulations per tenant.

    Returns:
        One session per tenant, sorted by the tenant's name.

    Raises:
        InvalidInput: Too few tenants are left.
    """
    tenants = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    sessions = [_build_session(tenant.name, _read_tenant(tenant)) for tenant in tenants]
    usable = sorted(filter(_has_actions, sessions), key=lambda session: -_example_count(session))[:TENANT_COUNT]
    if len(usable) < TENANT_COUNT:
        raise InvalidInput(
            f"{folder} has {len(usable)} folders whose held-out episodes have tool calls. {TENANT_COUNT} are needed."
        )
    return sorted(usable, key=lambda session: session.name)


def _play_expert(workplace: Workplace, seed: int) -> list[Trajectory]:
    tasks = [workplace.task(task_id, seed) for task_id in workplace.task_ids(TASKS_PER_SESSION)]
    return [
        READER.to_trajectory(orjson.loads(RecordedEpisode(task, None, run_expert(task)).to_jsonl())) for task in tasks
    ]


def _read_tenant(tenant: Path) -> list[list[Trajectory]]:
    """Read all files of a tenant. Task ids are unique only within a tenant, so the tenant's name is put before them."""
    return [_prefix_task_ids(tenant.name, batch) for _, batch in read_path(tenant)]


def _prefix_task_ids(tenant: str, batch: Iterable[Trajectory]) -> list[Trajectory]:
    return [trajectory.model_copy(update={"task_id": f"{tenant}/{trajectory.task_id}"}) for trajectory in batch]


def _build_session(name: str, batches: Sequence[Sequence[Trajectory]]) -> LearningSession:
    """Synthesize all successes without the optional stages, because this benchmark measures training only."""
    _, files = synthesize_in_memory(batches, HOLDOUT_SHARE, disabled_stages=OPTIONAL_STAGES)
    train, holdout = (tuple(read_examples(files[name])) for name in ("train.parquet", "holdout.parquet"))
    return LearningSession(name, train, holdout)


def _has_actions(session: LearningSession) -> bool:
    return any(turn.weight and turn.tool_calls for example in session.holdout for turn in example.turns)


def _example_count(session: LearningSession) -> int:
    return len(session.train) + len(session.holdout)
