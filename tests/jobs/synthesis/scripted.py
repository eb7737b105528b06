"""A model with scripted responses, and episodes for its requests."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from looper.jobs.synthesis.draft import Draft, DraftStep, Grade
from looper.jobs.synthesis.llm.request import LLMRequest
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory

ScriptedResponse = str | dict[str, Any] | None


class ScriptedModel:
    """A ``Generate`` function that returns the next scripted response to each request, and records the requests."""

    def __init__(self, *responses: ScriptedResponse) -> None:
        self._responses = list(responses)
        self.requests: list[LLMRequest] = []

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        self.requests += requests
        responses = [self._responses.pop(0) for _ in requests]
        return [json.dumps(response) if isinstance(response, dict) else response for response in responses]

    @property
    def is_exhausted(self) -> bool:
        return not self._responses


def booked(
    request: str = "Book the blue room for Monday.",
    *,
    room: str = "red",
    result: str = "ok",
    last: str = "I booked it.",
    tool: str = "book_room",
    system: str = "You book rooms.",
    task: str = "task",
    success: bool | None = False,
) -> Trajectory:
    """An episode in which an agent books a room and says so."""
    call = ToolCall(id="c1", name=tool, arguments=json.dumps({"room": room, "day": "Monday"}))
    return Trajectory.create(
        task_id=task,
        format="test",
        steps=(
            Step(source="system", content=system),
            Step(source="user", content=request),
            Step(source="agent", tool_calls=(call,)),
            Step(source="tool", content=result, call_id="c1"),
            Step(source="agent", content=last),
        ),
        outcome=Outcome(success=success),
    )


def draft(trajectory: Trajectory, grade: Grade | None = Grade.FAILED) -> Draft:
    return replace(Draft.from_trajectory(trajectory, has_labels=True), grade=grade)


def verdict_codes(draft: Draft) -> list[str]:
    return [verdict.code for verdict in draft.verdicts]


def step_texts(steps: Sequence[DraftStep]) -> list[str]:
    return [step.step.content for step in steps]
