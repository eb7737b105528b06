"""A model that answers by a script, and episodes to ask it about."""

import json
from collections.abc import Sequence
from typing import Any

from looper.jobs.synthesis.draft import Draft, Grade, Placed
from looper.jobs.synthesis.llm.request import LLMRequest
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory

Answer = str | dict[str, Any] | None


class Scripted:
    """An ``Ask`` that gives the next of its answers to each request, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[LLMRequest] = []

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        self.asked += requests
        answers = [self._answers.pop(0) for _ in requests]
        return [json.dumps(answer) if isinstance(answer, dict) else answer for answer in answers]

    @property
    def is_through(self) -> bool:
        return not self._answers


def booked(
    request: str = "Book the blue room for Monday.",
    *,
    room: str = "red",
    answer: str = "ok",
    last: str = "I booked it.",
    tool: str = "book_room",
    system: str = "You book rooms.",
    task: str = "task",
    success: bool | None = False,
) -> Trajectory:
    """An agent is asked to book a room, books one, and says so."""
    call = ToolCall(id="c1", name=tool, arguments=json.dumps({"room": room, "day": "Monday"}))
    return Trajectory.of(
        task_id=task,
        format="test",
        steps=(
            Step(source="system", content=system),
            Step(source="user", content=request),
            Step(source="agent", tool_calls=(call,)),
            Step(source="tool", content=answer, call_id="c1"),
            Step(source="agent", content=last),
        ),
        outcome=Outcome(success=success),
    )


def draft(trajectory: Trajectory, grade: Grade | None = Grade.FAILED) -> Draft:
    made = Draft.of(trajectory, labelled=True)
    return Draft(made.source, made.steps, made.labelled, grade=grade)


def whats(draft: Draft) -> list[str]:
    return [verdict.what for verdict in draft.verdicts]


def contents(steps: Sequence[Placed]) -> list[str]:
    return [placed.step.content for placed in steps]
