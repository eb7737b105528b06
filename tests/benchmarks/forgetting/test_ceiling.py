"""How many random rules an adapter holds, with a learner of known capacity, and a model."""

import json
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typing_extensions import override

from looper.benchmarks.forgetting.ceiling import (
    FIRST_COUNT,
    RANKS,
    ROUND_EPOCHS,
    ROUND_STEPS,
    bench_ceiling,
    draw_rules,
    plan_counts,
    plan_rules,
)
from looper.benchmarks.forgetting.ceiling_report import HELD, CeilingReport, ceiling_table
from looper.benchmarks.forgetting.learner import HeldOutScore
from looper.benchmarks.forgetting.looper_learner import LooperLearner
from looper.benchmarks.forgetting.plan import GYM_RECIPE
from looper.benchmarks.forgetting.run import MAX_RULE_ROUNDS, BenchmarkProgress
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.platform.domain.example import Example
from tests.benchmarks.forgetting.remembering_learner import RememberingLearner
from tests.tiny import tiny_base

RULES_PER_RANK = 10


class FullLearner(RememberingLearner):
    """Holds ten rules for each rank. It recalls nothing in the first two rounds, then all of them."""

    slow_rounds = 2

    @override
    def evaluate(self, examples: Sequence[Example]) -> HeldOutScore:
        count, known = len(examples), RULES_PER_RANK * self._run.recipe.rank
        self.rounds[self._run.key] += 1
        right = min(count, known) if self.rounds[self._run.key] > self.slow_rounds else 0
        return HeldOutScore(episodes=count, solved=right, calls=count, right=right, loss=0.1)

    def __init__(self, max_train_count: int = 1_000) -> None:
        super().__init__(max_train_count)
        self.rounds: Counter[str] = Counter()


def run(out: Path, learner: RememberingLearner | LooperLearner, most: int, quick: bool = False) -> CeilingReport:
    return bench_ceiling("none", learner, out, machine="a test", most=most, quick=quick, notify=lambda at: None)


def test_rules_are_random_and_no_two_have_the_same_key() -> None:
    rules = draw_rules(2000, 0)
    assert draw_rules(100, 0) == rules[:100]
    assert draw_rules(100, 1) != rules[:100]
    keys = {rule.turns[0].content for rule in rules}
    codes = {json.loads(rule.turns[1].tool_calls[0].arguments)["code"] for rule in rules}
    assert len(keys) == 2000
    assert len(codes) > 1700
    assert {len(code) for code in codes} == {4}


@pytest.mark.parametrize(
    ("most", "counts"), [(16, [16]), (64, [16, 64]), (256, [16, 64, 256]), (300, [16, 64, 256, 300])]
)
def test_each_run_has_four_times_the_rules_of_the_one_before(most: int, counts: list[int]) -> None:
    assert plan_counts(most) == counts


def test_few_rules_get_as_many_steps_and_larger_bases_lower_rates() -> None:
    few, many = (plan_rules(count, 16, "b", 10**6).recipe for count in (FIRST_COUNT, 1024))
    assert few.epochs * FIRST_COUNT / few.batch_size == ROUND_STEPS
    assert many.epochs == ROUND_EPOCHS
    assert few.alpha / few.rank == plan_rules(16, 64, "b", 10**6).recipe.alpha / 64
    assert plan_rules(16, 16, "b", 8 * 10**9).learning_rate < few.learning_rate == GYM_RECIPE.learning_rate  # type: ignore[operator]


def test_the_ceiling_of_each_rank_and_the_law_through_them_are_found(tmp_path: Path) -> None:
    report = run(tmp_path, FullLearner(), 4096)
    assert [(each.rank, each.kind) for each in report.capacities] == [(rank, "measured") for rank in RANKS]
    for each in report.capacities:
        # Between twice as many rules, recall is not a line.
        assert each.rules == pytest.approx(RULES_PER_RANK * each.rank / HELD, rel=0.15)
        assert each.low <= each.rules <= each.high
    assert report.law is not None
    assert report.law.ranks == 3
    assert report.law.exponent == pytest.approx(1, abs=0.1)
    assert report.law.low <= report.law.exponent <= report.law.high
    tried = [(run.rank, run.rules) for run in report.runs]
    counts = {4: (16, 32, 64), 16: (16, 64, 128, 256), 64: (16, 64, 256, 512, 1024)}
    assert tried == [(rank, count) for rank in RANKS for count in counts[rank]]
    assert report.runs[0].passes_until_held == report.runs[0].passes == 3 * ROUND_STEPS * 8 // 16
    assert report.runs[2].passes_until_held is None
    assert CeilingReport.model_validate_json((tmp_path / "ceiling.json").read_text()) == report
    text = (tmp_path / "ceiling.md").read_text()
    screen = StringIO()
    Console(width=200, file=screen).print(ceiling_table(report))
    for shown in (text, screen.getvalue()):
        assert "rank 4 holds 38 rules" in shown
        assert "rank^" in shown
    assert (tmp_path / "ceiling.png").read_bytes().startswith(b"\x89PNG")


def test_a_ceiling_that_is_not_reached_is_told_as_a_bound(tmp_path: Path) -> None:
    report = run(tmp_path, FullLearner(), 64)
    assert [(each.kind, each.rules) for each in report.capacities[1:]] == [("at least", 64), ("at least", 64)]
    assert report.law is None
    assert "rank 64 holds at least 64 rules" in (tmp_path / "ceiling.md").read_text()


def test_nothing_at_all_is_told_as_a_bound_after_the_last_round(tmp_path: Path) -> None:
    learner = FullLearner()
    learner.slow_rounds = MAX_RULE_ROUNDS
    report = run(tmp_path, learner, 64)
    assert [(each.kind, each.rules) for each in report.capacities] == [("below", 16)] * 3
    assert learner.train_count == 3 * MAX_RULE_ROUNDS


def test_more_rules_continue_an_earlier_command(tmp_path: Path) -> None:
    earlier = FullLearner()
    run(tmp_path, earlier, 64)
    later = FullLearner()
    resumed = run(tmp_path, later, 256)
    whole = FullLearner()
    expected = run(tmp_path / "whole", whole, 256)
    assert earlier.train_count + later.train_count == whole.train_count
    without_times = [[each.model_copy(update={"seconds": 0}) for each in report.runs] for report in (resumed, expected)]
    assert without_times[0] == without_times[1]


def test_a_tiny_model_runs_quickly_through_its_own_template(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, one_process: None
) -> None:
    folder = tiny_base(tmp_path_factory.mktemp("base") / "tiny")
    (window,) = ExampleEncoder.open(folder, 512).encode(draw_rules(1, 0)[0])
    assert len(window.calls) == 1
    notified: list[BenchmarkProgress] = []
    report = bench_ceiling(
        "tiny", LooperLearner(folder, 16), tmp_path, machine="a test", most=4, quick=True, notify=notified.append
    )
    assert [(run.rank, run.rules) for run in report.runs] == [(4, 4), (16, 4)]
    assert all(run.tokens > 0 and run.passes > 0 and run.failure is None for run in report.runs)
    assert {at.round_count for at in notified} == {MAX_RULE_ROUNDS}
    assert notified[0].run.name.startswith("4 random rules, rate 0.002, rank 4")
    assert report.runs[1].right > 0, "forty steps a round are enough for a random model to learn something"
