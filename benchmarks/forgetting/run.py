"""Execute the runs of the forgetting benchmark, and keep the result of every training round on disk.

``bench.py`` calls ``execute_runs`` with the runs of a phase and a ``Learner``. An interrupted benchmark continues after
the last finished round.

Files below the output folder: ``runs/<key>/run.json`` holds the settings of a run, ``<n>.json`` the evaluation after
round n, and ``<n>.saved`` the state of the learner after it, of which a stream keeps only the last. The evaluation is
written last and atomically, so an existing one means that the round is complete. A process holds the file ``lock`` of
the run that it executes, so several processes can share one folder. If a recipe cannot learn (the loss is not finite),
``failed.txt`` gets the reason and the other runs continue. The run is tried again after that file is deleted.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.forgetting.learner import HeldOutScore, Learner
from looper.benchmarks.forgetting.plan import SESSION_COUNT, ForgettingRun, RunKind, evaluated_sessions
from looper.benchmarks.forgetting.sources import LearningSession
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example

MAX_BOUND_ROUNDS = 8
"""Most training rounds of the multi-task bound."""
BOUND_REACHED = 0.99
"""Success on held-out tasks at which the multi-task bound is not trained further."""
BOUND_PATIENCE = 2
"""Rounds without a better result after which the multi-task bound is not trained further."""
MAX_RULE_ROUNDS = 6
"""Most training rounds of random rules."""

LoadSessions = Callable[[ForgettingRun], Sequence[LearningSession]]
"""Returns the sessions of a run's source for the run's seed: ``run.sessions`` of them."""


class RoundEvaluation(BaseModel):
    """Evaluation of an instance on the held-out tasks of the sessions, after one training round."""

    model_config = ConfigDict(frozen=True)

    scores: tuple[HeldOutScore, ...]
    """One score per evaluated session."""
    sessions: tuple[int, ...] | None = None
    """Numbers of the evaluated sessions, from 0. None in results from before there were streams: all of them."""
    tokens: int = 0
    """Tokens of the training round, old ones included. 0 in results from before they were counted."""
    steps: int
    """Optimizer steps of the training round."""
    learning_s: float
    """Duration of the training, in seconds."""
    judging_s: float
    """Duration of the evaluation, in seconds."""


class RunResult(BaseModel):
    """Result of a finished or failed run."""

    model_config = ConfigDict(frozen=True)

    run: ForgettingRun
    """The settings of the run."""
    rows: tuple[RoundEvaluation, ...]
    """One evaluation per training round. A failed run has only those before the failure."""
    failure: str | None = None
    """Why the run failed, or None."""


class BenchmarkProgress(NamedTuple):
    """Position of the benchmark in its runs."""

    run: ForgettingRun
    """The current run."""
    run_number: int
    """Number of the current run, from 1."""
    run_count: int
    """Number of all runs."""
    finished_rounds: int
    """Finished training rounds of the current run."""
    round_count: int
    """All training rounds of the current run."""


Notify = Callable[[BenchmarkProgress], None]


def execute_runs(
    runs: Sequence[ForgettingRun], load_sessions: LoadSessions, learner: Learner, out: Path, notify: Notify
) -> list[RunResult]:
    """Execute the runs whose results are missing, and return the results of all. A failed run does not stop the others.

    Runs that another process executes come last. This process waits for them, and executes them itself if the other
    process ended without finishing them.

    Args:
        runs: The runs to execute.
        load_sessions: Returns the sessions of a run.
        learner: What is trained and evaluated.
        out: Folder of the results.
        notify: Called before the first and after every training round.

    Returns:
        One result per run, in the order of ``runs``.
    """

    def execute(number: int, run: ForgettingRun) -> RunResult:
        sessions = load_sessions(run)
        round_count = {RunKind.SEQUENCE: len(sessions), RunKind.RULES: MAX_RULE_ROUNDS}.get(run.kind, 1)

        def report_rounds(finished: int) -> None:
            notify(BenchmarkProgress(run, number, len(runs), finished, round_count))

        return _execute_rounds(run, sessions, learner, out, report_rounds)

    def load_or_execute(number: int, run: ForgettingRun, wait_s: float) -> RunResult | None:
        _run_folder(run, out).mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(_run_folder(run, out) / "lock", timeout=wait_s):
                return _load_result(run, out) or execute(number, run)
        except Timeout:
            return None

    unlocked = [load_or_execute(number, run, wait_s=0) for number, run in enumerate(runs, start=1)]
    results = (
        result or load_or_execute(number, run, wait_s=-1)
        for number, (run, result) in enumerate(zip(runs, unlocked, strict=True), start=1)
    )
    return [result for result in results if result is not None]


def training_rounds(run: ForgettingRun, sessions: Sequence[LearningSession]) -> list[tuple[Example, ...]]:
    """Return the examples of each training round of a run. The instance is evaluated after each round.

    The multi-task bound and random rules repeat their round until recall gets no better.

    Args:
        run: The run.
        sessions: The sessions of its source.

    Returns:
        One tuple of examples per round. The base model has one round without examples.
    """
    if run.kind is RunKind.BASE:
        return [()]
    if run.kind in (RunKind.MULTI_TASK, RunKind.RULES):
        return [tuple(example for session in sessions for example in session.train)]
    return [session.train for session in sessions]


def _execute_rounds(
    run: ForgettingRun,
    sessions: Sequence[LearningSession],
    learner: Learner,
    out: Path,
    report_rounds: Callable[[int], None],
) -> RunResult:
    """Execute the missing rounds of a run. ``report_rounds`` is called with the number of finished rounds."""
    folder = _run_folder(run, out)
    _write_atomically(folder / "run.json", run.model_dump_json(indent=1).encode())
    evaluations, rounds = _load_evaluations(folder), training_rounds(run, sessions)
    learner.reset(run)
    if evaluations:
        learner.load_state((folder / f"{len(evaluations) - 1}.saved").read_bytes())
    while not _is_complete(run, evaluations):
        number = len(evaluations)
        examples = rounds[min(number, len(rounds) - 1)]
        report_rounds(number)
        try:
            evaluation = _train_and_evaluate(examples, sessions, evaluated_sessions(run, number), learner)
        except InvalidInput as error:
            _write_atomically(folder / "failed.txt", str(error).encode())
            return RunResult(run=run, rows=tuple(evaluations), failure=str(error))
        if examples:
            _write_atomically(folder / f"{number}.saved", learner.save_state())
        _write_atomically(folder / f"{number}.json", evaluation.model_dump_json(indent=1).encode())
        evaluations.append(evaluation)
        if run.sessions > SESSION_COUNT:  # the states of a long stream would fill the disk
            (folder / f"{number - 1}.saved").unlink(missing_ok=True)
    report_rounds(len(evaluations))
    return RunResult(run=run, rows=tuple(evaluations))


def _is_complete(run: ForgettingRun, evaluations: Sequence[RoundEvaluation]) -> bool:
    """Return whether a run needs no further round. The multi-task bound is trained until it gets no better.

    So are random rules, from the first one on that is recalled: at first the loss falls, and nothing is right.
    """
    if run.kind is RunKind.SEQUENCE:
        return len(evaluations) == run.sessions
    if run.kind is RunKind.BASE or not evaluations:
        return bool(evaluations)
    success = [mean_success(evaluation) for evaluation in evaluations]
    since_best = len(success) - 1 - success.index(max(success))
    if run.kind is RunKind.RULES:
        is_stalled = max(success) > 0 and since_best >= BOUND_PATIENCE
        return max(success) >= BOUND_REACHED or is_stalled or len(success) == MAX_RULE_ROUNDS
    return max(success) >= BOUND_REACHED or since_best >= BOUND_PATIENCE or len(success) == MAX_BOUND_ROUNDS


def mean_success(evaluation: RoundEvaluation) -> float:
    """Return the mean share of right tool calls over the evaluated sessions.

    Args:
        evaluation: An evaluation.

    Returns:
        From 0 to 1. It ranks the rounds of the multi-task bound in the gym and with real tenants alike.
    """
    return fmean(score.right / score.calls for score in evaluation.scores)


def _train_and_evaluate(
    examples: Sequence[Example], sessions: Sequence[LearningSession], asked: tuple[int, ...], learner: Learner
) -> RoundEvaluation:
    started = time.monotonic()
    steps = learner.train(examples) if examples else 0
    trained = time.monotonic()
    scores = tuple(learner.evaluate(sessions[number].holdout) for number in asked)
    return RoundEvaluation(
        scores=scores,
        sessions=asked,
        steps=steps,
        tokens=learner.trained_tokens if examples else 0,
        learning_s=trained - started,
        judging_s=time.monotonic() - trained,
    )


def _load_result(run: ForgettingRun, out: Path) -> RunResult | None:
    """Return the result of an earlier execution, or None if the run is not complete."""
    folder = _run_folder(run, out)
    evaluations = tuple(_load_evaluations(folder))
    failed = folder / "failed.txt"
    if failed.exists():
        return RunResult(run=run, rows=evaluations, failure=failed.read_text())
    return RunResult(run=run, rows=evaluations) if _is_complete(run, evaluations) else None


def _load_evaluations(folder: Path) -> list[RoundEvaluation]:
    evaluations: list[RoundEvaluation] = []
    while (file := folder / f"{len(evaluations)}.json").exists():
        evaluations.append(RoundEvaluation.model_validate_json(file.read_bytes()))
    return evaluations


def _run_folder(run: ForgettingRun, out: Path) -> Path:
    return out / "runs" / run.key


def _write_atomically(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
