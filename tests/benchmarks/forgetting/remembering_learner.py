"""A learner without a model: it remembers the last sessions it was taught, word for word of their tasks."""

import json
from collections.abc import Sequence

from looper.benchmarks.forgetting.learner import Score
from looper.benchmarks.forgetting.plan import ForgettingRun, RunKind
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example

MONTHS = {"none": 1, "replay": 5, "ella": 3}


class Remembers:
    """Knows the last ``MONTHS[strategy]`` months (2 of an unlisted strategy), or everything taught at once.

    ``lessons`` counts what it was taught since it was made, however often it began; it gives up, as an interrupted
    process does, when it is asked for more than ``patience`` of them.
    """

    def __init__(self, patience: int = 1_000) -> None:
        self.lessons = 0
        self._patience = patience

    def begin(self, run: ForgettingRun) -> None:
        self._run = run
        self._known: list[str] = []

    def learn(self, examples: Sequence[Example]) -> int:
        if self._run.recipe.strategy == "merge":
            raise InvalidInput("the loss is no number")
        if self.lessons == self._patience:
            raise KeyboardInterrupt
        self.lessons += 1
        taught = sorted({_month(example) for example in examples} - set(self._known))
        span = len(taught) if self._run.kind is RunKind.MULTI_TASK else MONTHS.get(self._run.recipe.strategy, 2)
        self._known = [*self._known, *taught][-span:]
        return len(examples) * self._run.recipe.epochs

    def judge(self, examples: Sequence[Example]) -> Score:
        solved = sum(_month(example) in self._known for example in examples)
        calls = sum(len(turn.tool_calls) for example in examples for turn in example.turns)
        loss = 0.1 if solved else 0.5 * self._run.recipe.epochs**0.5
        return Score(episodes=len(examples), solved=solved, calls=calls, right=calls if solved else 0, loss=loss)

    def save(self) -> bytes:
        return json.dumps(self._known).encode()

    def load(self, saved: bytes) -> None:
        self._known = json.loads(saved)


def _month(example: Example) -> str:
    return example.turns[0].content
