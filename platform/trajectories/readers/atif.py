"""Reads ATIF, Harbor's agent trajectory interchange format: ``{"schema_version": "ATIF-v1.x", "agent", "steps", ...}``.

Source: https://www.harborframework.com/docs/agents/trajectory-format. Results are in the step of their calls. A result
that names no call is what the environment told the agent: it becomes a ``user`` step, or after a system step a
``system`` step. Embedded trajectories of sub-agents, at any depth, are episodes of their own. Steps marked
``is_copied_context`` belong to the trajectory that they were copied from and are left out, as the specification asks of
training data.

ATIF has no field for task and outcome. They are read from the document's ``extra``, the specification's place for
custom fields: ``task_id``, ``reward`` and ``success``.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall
from looper.platform.trajectories.readers.openai_messages import Content, message_text
from looper.platform.trajectories.readers.reader import Reader, has_keys


class _AtifCall(BaseModel):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any] | str | None = None


class _AtifResult(BaseModel):
    source_call_id: str | None = None
    content: Content = None


class _AtifObservation(BaseModel):
    results: list[_AtifResult] = []


class _AtifStep(BaseModel):
    source: Literal["system", "user", "agent"]
    message: Content = None
    reasoning_content: str | None = None
    tool_calls: list[_AtifCall] | None = None
    observation: _AtifObservation | None = None
    timestamp: str | None = None
    is_copied_context: bool | None = None


class _AtifAgent(BaseModel):
    tool_definitions: list[dict[str, Any]] | None = None


class _AtifExtra(BaseModel):
    task_id: str | int | None = None
    reward: float | None = Field(None, allow_inf_nan=False)
    success: bool | None = None


class _AtifDocument(BaseModel):
    steps: list[_AtifStep]
    agent: _AtifAgent = _AtifAgent()
    extra: _AtifExtra | None = None


def _recognizes(document: object) -> bool:
    return has_keys(document, "schema_version", "steps") and str(document["schema_version"]).startswith("ATIF")


def _split_episodes(document: Any) -> Iterator[object]:
    todo = [document]
    while todo:
        document = todo.pop()
        yield document
        embedded = document.get("subagent_trajectories") if isinstance(document, dict) else None
        todo += reversed(embedded) if isinstance(embedded, list) else ()


def _to_trajectory(document: object) -> Trajectory:
    atif = _AtifDocument.model_validate(document)
    extra = atif.extra or _AtifExtra()
    episode = EpisodeBuilder()
    for step in atif.steps:
        if not step.is_copied_context:
            _add_step(episode, step)
    success = extra.success
    if success is None and extra.reward is not None:
        success = extra.reward >= 1
    return episode.build(
        task_id=None if extra.task_id is None else str(extra.task_id),
        format=READER.name,
        outcome=Outcome(success=success, reward=extra.reward),
        tools=atif.agent.tool_definitions,
    )


def _add_step(episode: EpisodeBuilder, step: _AtifStep) -> None:
    calls = [RecordedCall(call.function_name, call.arguments, call.tool_call_id) for call in step.tool_calls or ()]
    text = message_text(step.message)
    episode.add_message(step.source, text, calls, reasoning=step.reasoning_content or "", timestamp=step.timestamp)
    for result in step.observation.results if step.observation else ():
        content = message_text(result.content)
        if result.source_call_id is not None:
            episode.add_tool_result(result.source_call_id, content, timestamp=step.timestamp)
        else:
            episode.add_message("system" if step.source == "system" else "user", content, timestamp=step.timestamp)


READER = Reader("atif", _recognizes, _split_episodes, _to_trajectory)
