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

from looper.gym import sessions as written
from looper.gym import streams
from looper.gym.generate import RecordedEpisode
from looper.gym.policies import run_expert
from looper.gym.workplace import Workplace, WorkplaceTask
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
STREAM_HOLDOUT = 8
"""Most held-out tasks of a session of a stream."""


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
    months = written.build_sessions(WORKPLACES[instance])
    return [
        _build_session(month.since, [_play_expert(_draw_tasks(month, seed, written.TASKS_PER_SESSION))])
        for month in months
    ]


def build_stream_sessions(instance: str, count: int, seed: int) -> list[LearningSession]:
    """Let the expert of a workplace do the tasks of each session of a generated stream.

    Held-out tasks are left out if no training task has their word, because nobody could know its code, and beyond
    ``STREAM_HOLDOUT`` in a session, because each of them is asked many times.

    Args:
        instance: Name of the workplace.
        count: Number of sessions.
        seed: Seed of the rules and of the tasks.

    Returns:
        The sessions in order of time.

    Raises:
        InvalidInput: There is no such workplace, or it has no stream of so many sessions.
    """
    if instance not in WORKPLACES:
        raise InvalidInput(f"There is no workplace {instance!r}. Choose one of {', '.join(WORKPLACES)}.")
    months = streams.build_stream(WORKPLACES[instance], count, seed)
    return [_build_stream_session(month, seed) for month in months]


def _build_stream_session(month: Workplace, seed: int) -> LearningSession:
    tasks = {task.id: task for task in _draw_tasks(month, seed, streams.TASKS_PER_SESSION)}
    session = _build_session(month.since, [_play_expert(list(tasks.values()))], streams.HOLDOUT_SHARE)
    facts = [convention.fact for convention in month.conventions.values()]
    trained = {(fact, tasks[example.task_id].facts[fact]) for example in session.train for fact in facts}
    answerable = [
        example
        for example in session.holdout
        if trained >= {(fact, tasks[example.task_id].facts[fact]) for fact in facts}
    ]
    return LearningSession(session.name, session.train, tuple(answerable[:STREAM_HOLDOUT]))


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


def _draw_tasks(workplace: Workplace, seed: int, count: int) -> list[WorkplaceTask]:
    return [workplace.task(task_id, seed) for task_id in workplace.task_ids(count)]


def _play_expert(tasks: Sequence[WorkplaceTask]) -> list[Trajectory]:
    return [
        READER.to_trajectory(orjson.loads(RecordedEpisode(task, None, run_expert(task)).to_jsonl())) for task in tasks
    ]


def _read_tenant(tenant: Path) -> list[list[Trajectory]]:
    """Read all files of a tenant. Task ids are unique only within a tenant, so the tenant's name is put before them."""
    return [_prefix_task_ids(tenant.name, batch) for _, batch in read_path(tenant)]


def _prefix_task_ids(tenant: str, batch: Iterable[Trajectory]) -> list[Trajectory]:
    return [trajectory.model_copy(update={"task_id": f"{tenant}/{trajectory.task_id}"}) for trajectory in batch]


def _build_session(
    name: str, batches: Sequence[Sequence[Trajectory]], holdout_share: float = written.HOLDOUT_SHARE
) -> LearningSession:
    """Synthesize all successes without the optional stages, because this benchmark measures training only."""
    _, files = synthesize_in_memory(batches, holdout_share, disabled_stages=OPTIONAL_STAGES)
    train, holdout = (tuple(read_examples(files[name])) for name in ("train.parquet", "holdout.parquet"))
    return LearningSession(name, train, holdout)


def _has_actions(session: LearningSession) -> bool:
    return any(turn.weight and turn.tool_calls for example in session.holdout for turn in example.turns)


def _example_count(session: LearningSession) -> int:
    return len(session.train) + len(session.holdout)
