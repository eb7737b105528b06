"""SWE-agent ``.traj``: ``{history: [...], trajectory: [{thought, action, observation}], info, replay_config}``.

``history`` is what the model saw, and is what we read. Where the model called functions, calls and results are those of
OpenAI; where it wrote its command into the text, the command becomes a call of ``bash`` with ``{"command": ...}``, the
thought without the command becomes the step's content, and the next ``user`` message of type ``observation`` is the
result. A history often stops before the result of the last action: ``trajectory`` has it.

The episode has no label of its own. SWE-bench's verdict, ``<stem>.report.json`` beside the file, gives it
(``resolved``). Demonstrations shown to the agent (``is_demo``) are not its episode and are left out.
"""

import re
from typing import Any

from pydantic import BaseModel, Json

from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, dumps, task_named_by
from looper.platform.trajectories.readers.messages import OpenAIMessage, add_message, text_of
from looper.platform.trajectories.readers.reader import Reader, has, is_list_of, one

REPORT = ".report.json"

# How SWE-agent's own templates frame the issue in the first user message.
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


def _recognises(document: object) -> bool:
    return has(document, "history") and is_list_of(document["history"], "role")


def _trajectory(document: Any) -> Trajectory:
    run = _SweAgentRun.model_validate(document)
    problem = run.replay_config.problem_statement if run.replay_config else _SweAgentProblem()
    report = document.get(REPORT) or {}
    resolved = report.get("resolved") if isinstance(report, dict) else None
    return _episode(run).trajectory(
        task_id=_task_id(run, problem),
        format=READER.name,
        outcome=Outcome(
            success=resolved if isinstance(resolved, bool) else None,
            detail=dumps(
                {
                    "problem_id": problem.id,
                    "exit_status": run.info.get("exit_status"),
                    "resolved": resolved,
                    "tests_status": report.get("tests_status") if isinstance(report, dict) else None,
                }
            ),
        ),
        ended=run.info.get("exit_status") is not None,
    )


def _episode(run: _SweAgentRun) -> EpisodeBuilder:
    episode, command = EpisodeBuilder(), None
    for number, entry in enumerate(run.history):
        if entry.is_demo:
            continue
        if entry.role == "assistant" and entry.action and not entry.tool_calls:
            command = f"command_{number}"
            text = text_of(entry.content) if entry.thought is None else entry.thought
            episode.say("agent", text.strip(), [RecordedCall("bash", {"command": entry.action.rstrip("\n")}, command)])
        elif entry.role == "user" and entry.message_type == "observation" and command and episode.awaits(command):
            episode.observe(command, text_of(entry.content))
        elif entry.role == "tool":
            answered: list[str | None] = list(entry.tool_call_ids or ()) or [entry.tool_call_id]
            for call_id in answered:
                episode.observe(call_id, text_of(entry.content))
        else:
            add_message(episode, entry)
    last = run.trajectory[-1].observation if run.trajectory else None
    if command and last is not None and episode.awaits(command):
        episode.observe(command, last)
    return episode


def _task_id(run: _SweAgentRun, problem: _SweAgentProblem) -> str | None:
    """The task, by the words of its issue: files of one task, written by different versions, share nothing else."""
    if problem.text:
        return task_named_by(problem.text)
    first = next((text_of(entry.content) for entry in run.history if entry.role == "user" and not entry.is_demo), "")
    issue = _ISSUE.search(first)
    return task_named_by(issue[1]) if issue else problem.id


READER = Reader("swe_agent", _recognises, one, _trajectory, companion=REPORT)
