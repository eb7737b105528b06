"""The capacity benchmark: its ratios and predictions, and a complete run on the lightest peer."""

import json
from pathlib import Path

import pytest

from looper.benchmarks.capacity import random_adapters
from looper.benchmarks.capacity.bench import bench
from looper.benchmarks.capacity.load.cases import load_cases
from looper.benchmarks.capacity.load.metrics import LoadMetrics, Percentiles
from looper.benchmarks.capacity.results import CapacityRound, CapacityRow, compute_ratios
from looper.benchmarks.capacity.simulation.predict import estimate_capacity, run_simulation, to_tables
from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts
from tests.tiny import tiny_base


def row(
    peer: str, kind: str, count: int, tokens_per_s: float, ttft_s: float, cold_s: float | None = None
) -> CapacityRow:
    ttft = Percentiles(p50=ttft_s, p95=2 * ttft_s, p99=3 * ttft_s)
    metrics = LoadMetrics(
        requests=1, failed=0, requests_per_s=1, tokens_per_s=tokens_per_s, first_s=ttft, between_s=None, slo=1, found={}
    )
    return CapacityRow.from_rounds(
        [CapacityRound(peer=peer, kind=kind, adapters=count, rate=1, figures=metrics, stolen=0, all_answered_s=cold_s)]
    )


def test_ratios_compare_looper_with_itself_and_with_other_peers() -> None:
    rows = [
        row("looper", "full", 5, 100, 9),
        row("looper", "full", 512, 96, 9),
        row("looper", "steady", 5, 1, 0.5),
        row("looper", "steady", 512, 1, 0.6),
        row("looper", "cold", 32, 1, 1, cold_s=2.0),
        row("other", "full", 512, 48, 9),
        row("other", "steady", 512, 1, 2.4),
        row("other", "cold", 32, 1, 1, cold_s=8.0),
    ]
    assert compute_ratios(rows) == {
        "throughput at 512 over 5": 0.96,
        "TTFT p95 at 512 over 5": 1.2,
        "throughput over other, 512": 2.0,
        "TTFT p99 over other, 512": 0.25,
        "32 cold over other": 0.25,
    }


COSTS = EngineCosts(step=0.05, sequence=0.002, prompt_token=0.0005, adapter=0.005, request=0.02, load=0.3, reload=0.05)
CLUSTER = Cluster(seats=16, slots=8, in_memory=64, on_disk=256, step_tokens=64, line=64)


def test_capacity_falls_with_the_request_rate_and_rises_with_the_number_of_engines() -> None:
    assert estimate_capacity(CLUSTER, COSTS, 50).adapters == 0, "the rate is higher than one engine can answer"
    few, many = estimate_capacity(CLUSTER, COSTS, 3).adapters, estimate_capacity(CLUSTER, COSTS, 1).adapters
    assert 0 < few <= many
    two = CLUSTER.model_copy(update={"replicas": 2})
    assert estimate_capacity(two, COSTS, 3).adapters >= few


def test_predictions_are_compared_with_measurements() -> None:
    (case, _) = load_cases("looper", [8], 4.0, 20)
    measured = row("looper", "full", 8, 100, 9).figures
    report = run_simulation([(case, measured)], CLUSTER, COSTS, rates=[50], replicas=[1])
    (prediction,) = report.predictions
    assert prediction.throughput_error == pytest.approx(abs(prediction.predicted.tokens_per_s / 100 - 1))
    assert [table.row_count for table in to_tables(report)] == [1, 1]


def test_a_complete_run_on_peft_is_not_measured_again(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    notes: list[str] = []

    def run() -> None:
        options = {"peers": ["peft"], "counts": [3], "seconds": 2.0, "machine": "this machine"}
        report = bench(tmp_path / "out", "tiny", base, notify=notes.append, **options)  # type: ignore[arg-type]
        kinds = [(one.peer, one.kind) for one in report.rows]
        assert kinds == [("peft", "full"), ("peft", "steady"), ("peft", "cold")]
        # How many answers come in time depends on what else the machine does.
        assert all(one.figures.requests > 0 for one in report.rows)
        assert all(0 <= one.figures.failed <= one.figures.requests for one in report.rows)
        assert any(one.figures.tokens_per_s > 0 for one in report.rows)

    run()
    assert "peft starts" in notes
    assert (tmp_path / "out" / "capacity.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "capacity.json").read_text())["machine"] == "this machine"
    notes.clear()
    run()
    assert notes == ["99 adapters"], "no load was measured again"


def test_random_adapters_adapt_the_layers_that_looper_trains(tmp_path: Path) -> None:
    layers = random_adapters.linear_layer_shapes(tiny_base(tmp_path))
    assert {name.rpartition(".")[2] for name in layers} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
