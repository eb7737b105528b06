"""OpenHands: a list of events, or ``{instance_id, history: [events], ...}`` as its benchmarks write, one per line.

An agent's action that came out of a model's response carries that response: the response's text and calls become one
``agent`` step, and the observations answer its calls. An action without one (runs without function calling) becomes a
call named by the action, answered by the observation whose ``cause`` it is: a cause that is missing, or comes later, as
in a circle, makes the observation an orphan. An ``error`` that answers no call is what
OpenHands itself tells the model in a user message. Bookkeeping events (recall, state changes) are no steps.

There is no outcome label. ``test_result`` and ``error`` are kept as the outcome's detail.
"""

from typing import Any

from pydantic import BaseModel

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Outcome, Trajectory
from looper.platform.trajectories.episode import EpisodeBuilder, RecordedCall, dumps
from looper.platform.trajectories.readers.messages import Content, OpenAIToolCall, text_of
from looper.platform.trajectories.readers.reader import Reader, has, is_list_of, one

_BOOKKEEPING = frozenset({"recall", "null", "change_agent_state", "agent_state_changed", "condensation"})
# What OpenHands adds to an action's arguments for itself.
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


def _recognises(document: object) -> bool:
    if has(document, "history"):
        history = document["history"]
        return is_list_of(history, "action") or is_list_of(history, "observation") or has(document, "instance_id")
    return is_list_of(document, "source", "action") or is_list_of(document, "source", "observation")


def _trajectory(document: object) -> Trajectory:
    run = _OpenHandsRun.model_validate({"history": document} if isinstance(document, list) else document)
    episode, tools, responses, passed = EpisodeBuilder(), None, set[str](), set[int | None]()
    for event in run.history:
        if event.action == "system":
            tools = (event.args or {}).get("tools")
        if event.observation not in (None, "error") and event.cause is not None and event.cause not in passed:
            what = f"observation {event.observation!r} (event {event.id})"
            raise MalformedTrajectory(
                "orphan_result", f"{what} has event {event.cause} for its cause, which is not before it"
            )
        _add(episode, event, responses)
        passed.add(event.id)
    return episode.trajectory(
        task_id=run.instance_id,
        format=READER.name,
        outcome=Outcome(detail=dumps({"test_result": run.test_result, "error": run.error})),
        tools=tools if isinstance(tools, list) else None,
        ended=run.error is not None,
    )


def _add(episode: EpisodeBuilder, event: _OpenHandsEvent, responses: set[str]) -> None:
    """Add the event; ``responses`` holds the ids of the model's responses that are steps already."""
    metadata, args = event.tool_call_metadata, event.args or {}
    kind = event.action or event.observation
    if kind in _BOOKKEEPING or kind is None:
        return
    if event.observation:
        call_id = metadata.tool_call_id if metadata else str(event.cause)
        if metadata or episode.awaits(call_id):
            episode.observe(call_id, event.content or "", timestamp=event.timestamp)
        else:
            episode.say("user", event.content or "", timestamp=event.timestamp)
    elif event.action == "system":
        episode.say("system", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    elif event.source == "user":
        episode.say("user", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    elif metadata and (reply := _reply(metadata)):
        # Parallel calls: several actions, each with the whole response they came out of.
        response = metadata.model_response.id if metadata.model_response else None
        if response is None or response not in responses:
            calls = [call.as_call() for call in reply.tool_calls or () if response or call.id == metadata.tool_call_id]
            episode.say("agent", text_of(reply.content), calls, timestamp=event.timestamp)
        responses.update(filter(None, [response]))
    elif event.action == "message":
        episode.say("agent", str(args.get("content") or event.message or ""), timestamp=event.timestamp)
    else:
        name = metadata.function_name if metadata else str(event.action)
        call_id = metadata.tool_call_id if metadata else str(event.id)
        arguments = {key: value for key, value in args.items() if key not in _NOT_ARGUMENTS}
        episode.say(
            "agent", str(args.get("thought") or ""), [RecordedCall(name, arguments, call_id)], timestamp=event.timestamp
        )


def _reply(metadata: _OpenHandsMetadata) -> _OpenHandsReply | None:
    """The model's message behind an action, if the event still carries it."""
    choices = metadata.model_response.choices if metadata.model_response else []
    return choices[0].message if choices and choices[0].message.tool_calls else None


READER = Reader("openhands", _recognises, one, _trajectory)
