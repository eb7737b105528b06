"""Reads SWE-agent ``.traj``: ``{history: [...], trajectory: [{thought, action, observation}], info, replay_config}``.

Source: https://github.com/SWE-agent/SWE-agent. We read ``history``, because it is what the model saw. Where the model
called functions, calls and results are OpenAI's. Where it wrote its command into the text, the command becomes a call
of ``bash`` with ``{"command": ...}``, the thought without the command becomes the step's content, and the next ``user``
message of type ``observation`` is the result. A history often stops before the result of the last action; then
``trajectory`` has it.

An episode has no label of its own. SWE-bench's verdict in ``<stem>.report.json`` beside the file gives it
(``resolved``). Demonstrations that were shown to the agent (``is_demo``) are not part of the episode and are left out.
"""

import re
from typing import Any

from pydantic import BaseModel, Json

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, task_id_from_text, to_json_text
from looper.platform.trajectories.readers.openai_messages import OpenAIMessage, add_openai_message, message_text
from looper.platform.trajectories.readers.reader import Reader, has_keys, is_list_with_keys, single_episode

REPORT_SUFFIX = ".report.json"

# SWE-agent's own templates frame the issue like this in the first user message.
_ISSUE = re.compile(r"^ISSUE:\n(.*?)\n\s*INSTRUCTIONS:", re.DOTALL | re.MULTILINE)


class _SweAgentEntry(OpenAIMessage):
    message_type: str | None = None
    thought: str | None = None
    action: str | None = None
    tool_call_ids: list[str] | None = None
    is_demo: bool = False


class _SweAgentAction(BaseModel):
    observation: str | None = None


class _SweAgentProblem(BaseModel):
    id: str | None = None
    text: str | None = None


class _SweAgentReplay(BaseModel):
    problem_statement: _SweAgentProblem = _SweAgentProblem()


class _SweAgentRun(BaseModel):
    history: list[_SweAgentEntry]
    trajectory: list[_SweAgentAction] = []
    info: dict[str, Any] = {}
    replay_config: _SweAgentReplay | Json[_SweAgentReplay] | None = None


def _recognizes(document: object) -> bool:
    return has_keys(document, "history") and is_list_with_keys(document["history"], "role")


def _to_trajectory(document: Any) -> Trajectory:
    run = _SweAgentRun.model_validate(document)
    problem = run.replay_config.problem_statement if run.replay_config else _SweAgentProblem()
    report = document.get(REPORT_SUFFIX) or {}
    resolved = report.get("resolved") if isinstance(report, dict) else None
    return _build_episode(run).build(
        task_id=_task_id(run, problem),
        format=READER.name,
        outcome=Outcome(
            success=resolved if isinstance(resolved, bool) else None,
            detail=to_json_text(
                {
                    "problem_id": problem.id,
                    "exit_status": run.info.get("exit_status"),
                    "resolved": resolved,
                    "tests_status": report.get("tests_status") if isinstance(report, dict) else None,
                }
            ),
        ),
        has_ended=run.info.get("exit_status") is not None,
    )


def _build_episode(run: _SweAgentRun) -> EpisodeBuilder:
    episode, command = EpisodeBuilder(), None
    for number, entry in enumerate(run.history):
        if entry.is_demo:
            continue
        if entry.role == "assistant" and entry.action and not entry.tool_calls:
            command = f"command_{number}"
            text = message_text(entry.content) if entry.thought is None else entry.thought
            episode.add_message(
                "agent", text.strip(), [RecordedCall("bash", {"command": entry.action.rstrip("\n")}, command)]
            )
        elif entry.role == "user" and entry.message_type == "observation" and command and episode.is_open(command):
            episode.add_tool_result(command, message_text(entry.content))
        elif entry.role == "tool":
            answered: list[str | None] = list(entry.tool_call_ids or ()) or [entry.tool_call_id]
            for call_id in answered:
                episode.add_tool_result(call_id, message_text(entry.content))
        else:
            add_openai_message(episode, entry)
    last = run.trajectory[-1].observation if run.trajectory else None
    if command and last is not None and episode.is_open(command):
        episode.add_tool_result(command, last)
    return episode


def _task_id(run: _SweAgentRun, problem: _SweAgentProblem) -> str | None:
    """Return the task's id, made from the words of its issue.

    Files of one task that different versions of SWE-agent wrote have nothing else in common.
    """
    if problem.text:
        return task_id_from_text(problem.text)
    first = next(
        (message_text(entry.content) for entry in run.history if entry.role == "user" and not entry.is_demo), ""
    )
    issue = _ISSUE.search(first)
    return task_id_from_text(issue[1]) if issue else problem.id


READER = Reader("swe_agent", _recognizes, single_episode, _to_trajectory, companion_suffix=REPORT_SUFFIX)
