"""Reads OpenHands: a list of events, or, from its benchmarks, ``{instance_id, history: [events], ...}`` per line.

Source: https://github.com/All-Hands-AI/OpenHands. An agent's action that came from a model's response has that
response. Its text and calls become one ``agent`` step, and the observations answer its calls. An action without a
response (from runs without function calling) becomes a call with the action's name, and the observation whose ``cause``
is the action answers it. A cause that is missing or comes later, as in a circle, makes the observation an orphan. An
``error`` that answers no call is what OpenHands itself told the model in a user message. Bookkeeping events (recall,
state changes) are not steps.

There is no outcome label. ``test_result`` and ``error`` are kept as the outcome's detail.
"""

from typing import Any

from pydantic import BaseModel

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, to_json_text
from looper.platform.trajectories.readers.openai_messages import Content, OpenAIToolCall, message_text
from looper.platform.trajectories.readers.reader import Reader, has_keys, is_list_with_keys, single_episode

_BOOKKEEPING = frozenset({"recall", "null", "change_agent_state", "agent_state_changed", "condensation"})
# OpenHands adds these to an action's arguments for its own use.
_NOT_ARGUMENTS = frozenset({"thought", "hidden", "confirmation_state", "impl_source", "translated_ipython_code"})


class _OpenHandsReply(BaseModel):
    content: Content = None
    tool_calls: list[OpenAIToolCall] | None = None


class _OpenHandsChoice(BaseModel):
    message: _OpenHandsReply


class _OpenHandsResponse(BaseModel):
    id: str | None = None
    choices: list[_OpenHandsChoice] = []


class _OpenHandsMetadata(BaseModel):
    function_name: str
    tool_call_id: str
    model_response: _OpenHandsResponse | None = None


class _OpenHandsEvent(BaseModel):
    id: int | None = None
    source: str | None = None
    timestamp: str | None = None
    action: str | None = None
    observation: str | None = None
    cause: int | None = None
    content: str | None = None
    message: str | None = None
    args: dict[str, Any] | None = None
    tool_call_metadata: _OpenHandsMetadata | None = None


class _OpenHandsRun(BaseModel):
    history: list[_OpenHandsEvent]
    instance_id: str | None = None
    test_result: Any = None
    error: str | None = None


def _recognizes(document: object) -> bool:
    if has_keys(document, "history"):
        history = document["history"]
        return (
            is_list_with_keys(history, "action")
            or is_list_with_keys(history, "observation")
            or has_keys(document, "instance_id")
        )
    return is_list_with_keys(document, "source", "action") or is_list_with_keys(document, "source", "observation")


def _to_trajectory(document: object) -> Trajectory:
    run = _OpenHandsRun.model_validate({"history": document} if isinstance(document, list) else document)
    episode, tools, responses, previous_ids = EpisodeBuilder(), None, set[str](), set[int | None]()
    for event in run.history:
        if event.action == "system":
            tools = (event.args or {}).get("tools")
        if event.observation not in (None, "error") and event.cause is not None and event.cause not in previous_ids:
            what = f"observation {event.observation!r} (event {event.id})"
            raise MalformedTrajectory(
                "orphan_result", f"{what} has event {event.cause} as its cause, which does not come before it"
            )
        _add_step(episode, event, responses)
        previous_ids.add(event.id)
    return episode.build(
        task_id=run.instance_id,
        format=READER.name,
        outcome=Outcome(detail=to_json_text({"test_result": run.test_result, "error": run.error})),
        tools=tools if isinstance(tools, list) else None,
        has_ended=run.error is not None,
    )


def _add_step(episode: EpisodeBuilder, event: _OpenHandsEvent, responses: set[str]) -> None:
    """Add the step of an event. ``responses`` has the ids of the model's responses that became steps already."""
    metadata, args = event.tool_call_metadata, event.args or {}
    kind = event.action or event.observation
    if kind in _BOOKKEEPING or kind is None:
        return
    if event.observation:
        call_id = metadata.tool_call_id if metadata else str(event.cause)
        if metadata or episode.is_open(call_id):
            episode.add_tool_result(call_id, event.content or "", timestamp=event.timestamp)
        else:
            episode.add_message("user", event.content or "", timestamp=event.timestamp)
    elif event.action == "system":
        episode.add_message("system", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    elif event.source == "user":
        episode.add_message("user", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    elif metadata and (reply := _reply(metadata)):
        # Parallel calls are several actions, each with the whole response that they came from.
        response = metadata.model_response.id if metadata.model_response else None
        if response is None or response not in responses:
            calls = [
                call.to_recorded_call()
                for call in reply.tool_calls or ()
                if response or call.id == metadata.tool_call_id
            ]
            episode.add_message("agent", message_text(reply.content), calls, timestamp=event.timestamp)
        responses.update(filter(None, [response]))
    elif event.action == "message":
        episode.add_message("agent", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    else:
        name = metadata.function_name if metadata else str(event.action)
        call_id = metadata.tool_call_id if metadata else str(event.id)
        arguments = {key: value for key, value in args.items() if key not in _NOT_ARGUMENTS}
        episode.add_message(
            "agent", str(args.get("thought") or ""), [RecordedCall(name, arguments, call_id)], timestamp=event.timestamp
        )


def _reply(metadata: _OpenHandsMetadata) -> _OpenHandsReply | None:
    """Return the model's message that an action came from, if the event still has it."""
    choices = metadata.model_response.choices if metadata.model_response else []
    return choices[0].message if choices and choices[0].message.tool_calls else None


READER = Reader("openhands", _recognizes, single_episode, _to_trajectory)
