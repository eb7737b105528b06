"""Live the runs of a plan, lesson by lesson, and keep every row: what was interrupted goes on where it was.

Under the output folder, ``runs/<key>/run.json`` holds a run's settings, ``<n>.json`` the row after its lesson n, and
``<n>.saved`` what the learner goes on from. A row is written last of the three and at once, so that a row that is there
is whole. Who lives a run holds its ``lock``, so that several processes can share one folder. A run whose recipe cannot
learn (no number for a loss) leaves ``failed.txt`` with the reason instead of stopping the others; without that file it
is tried again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting.learner import Learner, Score
from looper.benchmarks.forgetting.plan import ForgettingRun, RunKind
from looper.benchmarks.forgetting.sources import LearningSession
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example

SessionsOf = Callable[[ForgettingRun], Sequence[LearningSession]]
"""The sessions of a run's source, drawn by its seed; as many as ``run.sessions``."""


class ForgettingRow(BaseModel):
    """One evaluation of an instance on every session's held-out tasks."""

    model_config = ConfigDict(frozen=True)

    scores: tuple[Score, ...]
    """By session."""
    steps: int
    """Optimiser steps of the lesson before it."""
    learning_s: float
    judging_s: float


class RunResult(BaseModel):
    """A run that came to its end: a row per lesson, or the reason why it has too few."""

    model_config = ConfigDict(frozen=True)

    run: ForgettingRun
    rows: tuple[ForgettingRow, ...]
    failure: str | None = None


class BenchmarkProgress(NamedTuple):
    """The run at work is number ``place`` of ``runs``, from 1; ``done`` of its ``lessons`` are over."""

    run: ForgettingRun
    place: int
    runs: int
    done: int
    lessons: int


Notify = Callable[[BenchmarkProgress], None]


def execute(
    runs: Sequence[ForgettingRun], sessions_of: SessionsOf, learner: Learner, out: Path, notify: Notify
) -> list[RunResult]:
    """Do what is missing of ``runs`` and return all their results, in order. A run that cannot learn stops no other.

    What another process is at comes last: it is waited for, and lived here should that process have ended.
    """

    def live(place: int, run: ForgettingRun) -> RunResult:
        sessions = sessions_of(run)
        count = len(lessons(run, sessions))
        return _live(
            run, sessions, learner, out, lambda done: notify(BenchmarkProgress(run, place, len(runs), done, count))
        )

    def result(place: int, run: ForgettingRun, wait_s: float) -> RunResult | None:
        _folder(run, out).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(_folder(run, out) / "lock", timeout=wait_s):
                return _result(run, out) or live(place, run)
        except Timeout:
            return None

    free = [result(place, run, wait_s=0) for place, run in enumerate(runs, start=1)]
    waited_for = (found or result(place, runs[place - 1], wait_s=-1) for place, found in enumerate(free, start=1))
    return [found for found in waited_for if found is not None]


def lessons(run: ForgettingRun, sessions: Sequence[LearningSession]) -> list[tuple[Example, ...]]:
    """What the instance is given to learn, in turn; it is judged after each. The base is given nothing, once."""
    if run.kind is RunKind.BASE:
        return [()]
    if run.kind is RunKind.MULTI_TASK:
        return [tuple(example for session in sessions for example in session.train)]
    return [session.train for session in sessions]


def _live(
    run: ForgettingRun, sessions: Sequence[LearningSession], learner: Learner, out: Path, over: Callable[[int], None]
) -> RunResult:
    """``over`` is told how many lessons are."""
    folder = _folder(run, out)
    _write(folder / "run.json", run.model_dump_json(indent=1).encode())
    rows, todo = _rows(folder), lessons(run, sessions)
    learner.begin(run)
    if rows:
        learner.load((folder / f"{len(rows) - 1}.saved").read_bytes())
    for number, lesson in enumerate(todo[len(rows) :], start=len(rows)):
        over(number)
        try:
            row = _take(lesson, sessions, learner)
        except InvalidInput as error:
            _write(folder / "failed.txt", str(error).encode())
            return RunResult(run=run, rows=tuple(rows), failure=str(error))
        if lesson:
            _write(folder / f"{number}.saved", learner.save())
        _write(folder / f"{number}.json", row.model_dump_json(indent=1).encode())
        rows.append(row)
    over(len(todo))
    return RunResult(run=run, rows=tuple(rows))


def _take(lesson: Sequence[Example], sessions: Sequence[LearningSession], learner: Learner) -> ForgettingRow:
    began = time.monotonic()
    steps = learner.learn(lesson) if lesson else 0
    learned = time.monotonic()
    scores = tuple(learner.judge(session.holdout) for session in sessions)
    return ForgettingRow(scores=scores, steps=steps, learning_s=learned - began, judging_s=time.monotonic() - learned)


def _result(run: ForgettingRun, out: Path) -> RunResult | None:
    """What an earlier execution left, if it left all."""
    folder = _folder(run, out)
    rows = tuple(_rows(folder))
    failed = folder / "failed.txt"
    if failed.exists():
        return RunResult(run=run, rows=rows, failure=failed.read_text())
    wanted = run.sessions if run.kind is RunKind.SEQUENCE else 1
    return RunResult(run=run, rows=rows) if len(rows) == wanted else None


def _rows(folder: Path) -> list[ForgettingRow]:
    rows: list[ForgettingRow] = []
    while (file := folder / f"{len(rows)}.json").exists():
        rows.append(ForgettingRow.model_validate_json(file.read_bytes()))
    return rows


def _folder(run: ForgettingRun, out: Path) -> Path:
    return out / "runs" / run.key


def _write(file: Path, content: bytes) -> None:
    """All or nothing."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
