"""tau-bench: a JSON list of ``{task_id, reward, trial, info, traj: [OpenAI messages]}``; success is reward 1.

The messages of one episode may lack call ids altogether (results then come in the order of their calls), and a run
that crashed has an empty ``traj`` and its error in ``info``. The system prompt is part of the messages, or missing.
"""

from typing import Any

from pydantic import BaseModel, Field

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, dumps
from looper.platform.trajectories.readers.messages import OpenAIMessage, add_message
from looper.platform.trajectories.readers.reader import Reader, has, is_list_of


class _TauBenchRun(BaseModel):
    task_id: str | int
    reward: float | None = Field(None, allow_inf_nan=False)
    trial: int | None = None
    info: dict[str, Any] = {}
    traj: list[OpenAIMessage]


def _recognises(document: object) -> bool:
    return is_list_of(document, "traj", "task_id") or has(document, "traj", "task_id")


def _episodes(document: Any) -> list[object]:
    return list(document) if isinstance(document, list) else [document]


def _trajectory(document: object) -> Trajectory:
    run = _TauBenchRun.model_validate(document)
    episode = EpisodeBuilder()
    for message in run.traj:
        add_message(episode, message)
    detail = {"trial": run.trial, "error": run.info.get("error"), "reward_info": run.info.get("reward_info")}
    return episode.trajectory(
        task_id=str(run.task_id),
        format=READER.name,
        outcome=Outcome(
            success=None if run.reward is None else run.reward == 1, reward=run.reward, detail=dumps(detail)
        ),
    )


READER = Reader("tau_bench", _recognises, _episodes, _trajectory)
