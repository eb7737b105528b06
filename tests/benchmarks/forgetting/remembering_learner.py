"""A learner without a model, for the tests of the forgetting benchmark."""

import json
from collections.abc import Sequence

from typing_extensions import override

from looper.benchmarks.forgetting.learner import HeldOutScore, Learner
from looper.benchmarks.forgetting.plan import ForgettingRun, RunKind
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example

REMEMBERED_SESSIONS = {"none": 1, "replay": 5, "ella": 3}
"""Number of sessions that a strategy remembers. All others remember 2."""


class RememberingLearner(Learner):
    """Solves the tasks of the last sessions that it was trained on, as many as its strategy remembers.

    It remembers everything that it was trained on in one round as the multi-task bound. ``train_count`` counts the
    calls of ``train``. After ``max_train_count`` of them it raises KeyboardInterrupt, as in an interrupted process.
    """

    def __init__(self, max_train_count: int = 1_000) -> None:
        self.train_count = 0
        self._max_train_count = max_train_count

    @override
    def reset(self, run: ForgettingRun) -> None:
        self._run = run
        self._remembered: list[str] = []

    @override
    def train(self, examples: Sequence[Example]) -> int:
        if self._run.recipe.strategy == "merge":
            raise InvalidInput("The loss is not finite.")
        if self.train_count == self._max_train_count:
            raise KeyboardInterrupt
        self.train_count += 1
        new = sorted({_session(example) for example in examples} - set(self._remembered))
        is_multi_task = self._run.kind is RunKind.MULTI_TASK
        count = len(new) if is_multi_task else REMEMBERED_SESSIONS.get(self._run.recipe.strategy, 2)
        self._remembered = [*self._remembered, *new][-count:]
        self._tokens = 100 * len(examples) * (1 if self._run.recipe.strategy == "none" else 2)
        return len(examples) * self._run.recipe.epochs

    @property
    @override
    def parameters(self) -> int:
        return 135_000_000

    @property
    @override
    def trained_tokens(self) -> int:
        return self._tokens

    @override
    def evaluate(self, examples: Sequence[Example]) -> HeldOutScore:
        solved = sum(_session(example) in self._remembered for example in examples)
        calls = sum(len(turn.tool_calls) for example in examples for turn in example.turns)
        loss = 0.1 if solved else 0.5 * self._run.recipe.epochs**0.5
        return HeldOutScore(episodes=len(examples), solved=solved, calls=calls, right=calls if solved else 0, loss=loss)

    @override
    def save_state(self) -> bytes:
        return json.dumps(self._remembered).encode()

    @override
    def load_state(self, saved: bytes) -> None:
        self._remembered = json.loads(saved)


def _session(example: Example) -> str:
    """The session of a task of the gym, which its id names, or the tenant's system prompt."""
    return example.task_id.rpartition("-")[0] or example.turns[0].content
