"""The bench of a stream, from its plan to its report, with a learner that needs no model."""

from pathlib import Path

import pytest

from looper.benchmarks.forgetting import stream_metrics
from looper.benchmarks.forgetting.bench import bench_stream
from looper.benchmarks.forgetting.learner import HeldOutScore
from looper.benchmarks.forgetting.plan import (
    GYM_RECIPE,
    STREAM_RECIPE,
    ForgettingRun,
    RunKind,
    evaluated_sessions,
    plan_stream,
)
from looper.benchmarks.forgetting.run import MAX_BOUND_ROUNDS, execute_runs
from looper.benchmarks.forgetting.sources import STREAM_HOLDOUT, build_stream_sessions
from looper.benchmarks.forgetting.stream_report import StreamReport, build_stream_report
from looper.benchmarks.forgetting.summary import success_matrix
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example
from tests.benchmarks.forgetting.remembering_learner import RememberingLearner

# Session 0 falls from 1 to 0.5 and recovers; the last row has all sessions.
CELLS = [{0: 1.0}, {0: 0.5, 1: 0.8}, {2: 0.6}, {0: 0.9, 1: 0.6, 2: 0.6, 3: 1.0}]
STREAM = ForgettingRun(source="harbor/dispatch", sessions=12, base="none", recipe=STREAM_RECIPE)


def test_metrics_by_hand() -> None:
    assert stream_metrics.average_accuracy(CELLS) == pytest.approx((0.9 + 0.6 + 0.6 + 1.0) / 4)
    assert stream_metrics.forgetting(CELLS) == pytest.approx((0.1 + 0.2 + 0.0) / 3)
    assert stream_metrics.worst_dip(CELLS) == pytest.approx(0.5)
    assert stream_metrics.worst_mean_dip(CELLS) == pytest.approx((0.5 + 0.0) / 2)
    assert stream_metrics.plasticity(CELLS, 1, 3) == pytest.approx((0.8 + 0.6) / 2)


def test_a_stream_evaluates_earlier_sessions_now_and_then_and_at_the_end() -> None:
    asked = [evaluated_sessions(STREAM, number) for number in range(12)]
    assert [len(each) for each in asked] == [1, 1, 1, 1, 5, 1, 1, 1, 1, 10, 1, 12]
    assert [each[-1] for each in asked] == list(range(12))
    five = STREAM.model_copy(update={"sessions": 5})
    assert evaluated_sessions(five, 0) == (0, 1, 2, 3, 4)
    bound = plan_stream(STREAM, quick=False)[-1]
    assert bound.kind is RunKind.MULTI_TASK
    assert evaluated_sessions(bound, 0) == tuple(range(12))


def test_held_out_tasks_can_be_known_and_are_few() -> None:
    for session in build_stream_sessions("harbor/dispatch", 50, 0):
        assert 1 <= len(session.holdout) <= STREAM_HOLDOUT
        assert len(session.train) >= 8
        assert not {example.task_id for example in session.train} & {example.task_id for example in session.holdout}
        requests = [str(example.turns[1].content).split(", ")[1].rstrip(".") for example in session.train]
        assert {str(each.turns[1].content).split(", ")[1].rstrip(".") for each in session.holdout} <= set(requests)
    with pytest.raises(InvalidInput, match="no workplace"):
        build_stream_sessions("harbor/office", 10, 0)


def run(out: Path, learner: RememberingLearner, quick: bool = False) -> StreamReport:
    return bench_stream(
        "harbor/dispatch",
        "none",
        learner,
        out,
        machine="a test",
        sessions=12,
        quick=quick,
        notify=lambda progress: None,
    )


def test_the_report_tells_success_dips_and_costs(tmp_path: Path) -> None:
    report = run(tmp_path, RememberingLearner())
    cheap, none, replay = report.rows
    assert [(row.strategy, row.epochs) for row in report.rows] == [("replay(share=3.5)", 1), ("none", 3), ("replay", 3)]
    # The learner without a strategy knows the last system message only, and no session before.
    assert none.forgetting > cheap.forgetting > replay.forgetting > 0
    assert none.worst_dip == 1.0
    assert none.early_plasticity == none.late_plasticity == 1.0
    assert (replay.tokens_over_none, none.tokens_over_none) == (2.0, 1.0)
    assert report.bound_accuracy == 1.0
    assert replay.accuracy_over_bound == replay.accuracy
    assert [number for number, _ in replay.mean_success] == [1, 5, 10, 12]
    assert StreamReport.model_validate_json((tmp_path / "forgetting-12.json").read_text()) == report
    assert "| replay(share=3.5) | 1 | 12 |" in (tmp_path / "forgetting-12.md").read_text()


def test_an_interrupted_stream_goes_on_with_the_last_saved_state(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", RememberingLearner(max_train_count=7), quick=True)
    saved = sorted(path.name for path in (tmp_path / "cut").rglob("*.saved"))
    assert saved == ["6.saved"]
    cut = run(tmp_path / "cut", RememberingLearner(), quick=True)
    whole = run(tmp_path / "whole", RememberingLearner(), quick=True)
    for one, other in zip(cut.rows, whole.rows, strict=True):
        assert one.model_copy(update={"seconds": 0, "seconds_over_none": 0}) == other.model_copy(
            update={"seconds": 0, "seconds_over_none": 0}
        )


class SlowLearner(RememberingLearner):
    """Knows one more of ten calls after each training, up to a limit, and loses one again in the end."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def evaluate(self, examples: list[Example]) -> HeldOutScore:  # type: ignore[override]
        right = min(self.train_count, self.limit) - (self.train_count > self.limit)
        return HeldOutScore(episodes=10, solved=right, calls=10, right=right, loss=0.1)


@pytest.mark.parametrize(("limit", "rounds"), [(10, MAX_BOUND_ROUNDS), (3, 5), (1, 3)])
def test_the_bound_is_trained_until_it_gets_no_better(tmp_path: Path, limit: int, rounds: int) -> None:
    bound = ForgettingRun(kind=RunKind.MULTI_TASK, source="harbor/dispatch", base="none", recipe=GYM_RECIPE)
    sessions = build_stream_sessions("harbor/dispatch", 5, 0)
    (result,) = execute_runs([bound], lambda run: sessions, SlowLearner(limit), tmp_path, lambda progress: None)
    assert len(result.rows) == rounds
    assert success_matrix(result) == [[min(limit, rounds) / 10] * 5]
    again = SlowLearner(limit)
    execute_runs([bound], lambda run: sessions, again, tmp_path, lambda progress: None)
    assert again.train_count == 0


def test_a_run_that_is_not_finished_is_reported_as_far_as_it_came(tmp_path: Path) -> None:
    (result,) = execute_runs(
        [STREAM], lambda run: build_stream_sessions(run.source, 12, 0), RememberingLearner(), tmp_path, lambda at: None
    )
    part = result.model_copy(update={"rows": result.rows[:7]})
    (row,) = build_stream_report([part], "a test", {}).rows
    assert row.sessions == 5  # where all were evaluated last
    assert row.accuracy_over_bound is None
