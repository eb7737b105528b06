"""Reads tau-bench results: a JSON list of ``{task_id, reward, trial, info, traj: [OpenAI messages]}``.

Source: https://github.com/sierra-research/tau-bench. An episode succeeded if its reward is 1. The messages of an
episode may have no call ids; results are then in the order of their calls. A run that crashed has an empty ``traj`` and
its error in ``info``. The system prompt is part of the messages, or missing.
"""

from typing import Any

from pydantic import BaseModel, Field

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, to_json_text
from looper.platform.trajectories.readers.openai_messages import OpenAIMessage, add_openai_message
from looper.platform.trajectories.readers.reader import Reader, has_keys, is_list_with_keys


class _TauBenchRun(BaseModel):
    task_id: str | int
    reward: float | None = Field(None, allow_inf_nan=False)
    trial: int | None = None
    info: dict[str, Any] = {}
    traj: list[OpenAIMessage]


def _recognizes(document: object) -> bool:
    return is_list_with_keys(document, "traj", "task_id") or has_keys(document, "traj", "task_id")


def _split_episodes(document: Any) -> list[object]:
    return list(document) if isinstance(document, list) else [document]


def _to_trajectory(document: object) -> Trajectory:
    run = _TauBenchRun.model_validate(document)
    episode = EpisodeBuilder()
    for message in run.traj:
        add_openai_message(episode, message)
    detail = {"trial": run.trial, "error": run.info.get("error"), "reward_info": run.info.get("reward_info")}
    return episode.build(
        task_id=str(run.task_id),
        format=READER.name,
        outcome=Outcome(
            success=None if run.reward is None else run.reward == 1, reward=run.reward, detail=to_json_text(detail)
        ),
    )


READER = Reader("tau_bench", _recognizes, _split_episodes, _to_trajectory)
