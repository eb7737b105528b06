"""Reads tau2-bench: ``{info, tasks, simulations: [{task_id, trial, termination_reason, reward_info, messages}]}``.

Source: https://github.com/sierra-research/tau2-bench. The agent's policy, where ``info.environment_info.policy`` has
it, becomes the first system step of every episode. A user may call tools too (``requestor``): those calls and their
results keep ``requestor="user"``. An episode succeeded if its reward is 1.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, to_json_text
from looper.platform.trajectories.readers.reader import Reader, has_keys

_REWARD_CHECKS = (
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


def _recognizes(document: object) -> bool:
    return has_keys(document, "simulations", "info") and isinstance(document["simulations"], list)


def _split_episodes(document: Any) -> Iterator[object]:
    info = document["info"]
    environment = (info.get("environment_info") if isinstance(info, dict) else None) or {}
    return ({"environment": environment, "simulation": simulation} for simulation in document["simulations"])


def _to_trajectory(document: object) -> Trajectory:
    run = _Tau2Run.model_validate(document)
    simulation, episode = run.simulation, EpisodeBuilder()
    if run.environment.policy:
        episode.add_message("system", run.environment.policy)
    for message in simulation.messages:
        _add_step(episode, message)
    info = simulation.reward_info or {}
    reward = _Tau2Reward.model_validate(info).reward
    detail = {
        "simulation_id": simulation.id,
        "trial": simulation.trial,
        "termination_reason": simulation.termination_reason,
        **{name: info.get(name) for name in _REWARD_CHECKS},
    }
    return episode.build(
        task_id=str(simulation.task_id),
        format=READER.name,
        outcome=Outcome(success=None if reward is None else reward == 1, reward=reward, detail=to_json_text(detail)),
        tools=run.environment.tool_defs,
        has_ended=simulation.termination_reason is not None,
    )


def _add_step(episode: EpisodeBuilder, message: _Tau2Message) -> None:
    text = message.content or ""
    calls = [RecordedCall(call.name, call.arguments, call.id) for call in message.tool_calls or ()]
    match message.role:
        case "assistant":
            episode.add_message("agent", text, calls, timestamp=message.timestamp)
        case "user":
            requestor: Literal["agent", "user"] = "user" if calls else "agent"
            episode.add_message("user", text, calls, requestor=requestor, timestamp=message.timestamp)
        case "system":
            episode.add_message("system", text, timestamp=message.timestamp)
        case "tool":
            for result in message.tool_messages or [message]:
                episode.add_tool_result(result.id, result.content or "", timestamp=result.timestamp)
        case role:
            raise MalformedTrajectory("unknown_role", f"role {role!r} is not one of system, user, assistant, tool")


READER = Reader("tau2", _recognizes, _split_episodes, _to_trajectory)
