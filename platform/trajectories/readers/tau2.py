"""tau2-bench results: ``{info, tasks, simulations: [{task_id, trial, termination_reason, reward_info, messages}]}``.

The agent's policy, where ``info.environment_info.policy`` carries it, becomes the leading system step of every episode.
A user may call tools too (``requestor``): those calls and their results keep ``requestor="user"``.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, dumps
from looper.platform.trajectories.readers.reader import Reader, has

_CHECKS = (
    "reward_basis",
    "reward_breakdown",
    "db_check",
    "action_checks",
    "env_assertions",
    "nl_assertions",
    "communicate_checks",
)


class _Tau2Environment(BaseModel):
    policy: str | None = None
    tool_defs: list[dict[str, Any]] | None = None


class _Tau2Call(BaseModel):
    id: str | None = None
    name: str
    arguments: dict[str, Any] | str | None = None


class _Tau2Message(BaseModel):
    role: str
    content: str | None = None
    tool_calls: list[_Tau2Call] | None = None
    id: str | None = None
    timestamp: str | None = None
    tool_messages: list["_Tau2Message"] | None = None
    """Several results in one message of role ``tool``."""


class _Tau2Simulation(BaseModel):
    id: str | None = None
    task_id: str | int
    trial: int | None = None
    termination_reason: str | None = None
    reward_info: dict[str, Any] | None = None
    messages: list[_Tau2Message]


class _Tau2Run(BaseModel):
    environment: _Tau2Environment
    simulation: _Tau2Simulation


class _Tau2Reward(BaseModel):
    reward: float | None = Field(None, allow_inf_nan=False)


def _recognises(document: object) -> bool:
    return has(document, "simulations", "info") and isinstance(document["simulations"], list)


def _episodes(document: Any) -> Iterator[object]:
    info = document["info"]
    environment = (info.get("environment_info") if isinstance(info, dict) else None) or {}
    return ({"environment": environment, "simulation": simulation} for simulation in document["simulations"])


def _trajectory(document: object) -> Trajectory:
    run = _Tau2Run.model_validate(document)
    simulation, episode = run.simulation, EpisodeBuilder()
    if run.environment.policy:
        episode.say("system", run.environment.policy)
    for message in simulation.messages:
        _add(episode, message)
    info = simulation.reward_info or {}
    reward = _Tau2Reward.model_validate(info).reward
    detail = {
        "simulation_id": simulation.id,
        "trial": simulation.trial,
        "termination_reason": simulation.termination_reason,
        **{name: info.get(name) for name in _CHECKS},
    }
    return episode.trajectory(
        task_id=str(simulation.task_id),
        format=READER.name,
        outcome=Outcome(success=None if reward is None else reward == 1, reward=reward, detail=dumps(detail)),
        tools=run.environment.tool_defs,
        ended=simulation.termination_reason is not None,
    )


def _add(episode: EpisodeBuilder, message: _Tau2Message) -> None:
    text = message.content or ""
    calls = [RecordedCall(call.name, call.arguments, call.id) for call in message.tool_calls or ()]
    match message.role:
        case "assistant":
            episode.say("agent", text, calls, timestamp=message.timestamp)
        case "user":
            by: Literal["agent", "user"] = "user" if calls else "agent"
            episode.say("user", text, calls, requestor=by, timestamp=message.timestamp)
        case "system":
            episode.say("system", text, timestamp=message.timestamp)
        case "tool":
            for result in message.tool_messages or [message]:
                episode.observe(result.id, result.content or "", timestamp=result.timestamp)
        case role:
            raise MalformedTrajectory("unknown_role", f"role {role!r} is none of system, user, assistant, tool")


READER = Reader("tau2", _recognises, _episodes, _trajectory)
