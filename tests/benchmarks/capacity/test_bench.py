"""The capacity benchmark: what it compares, and the whole of it on the lightest peer."""

import json
from pathlib import Path

import pytest

from looper.benchmarks.capacity import random_adapters as adapters
from looper.benchmarks.capacity.bench import CapacityRound, CapacityRow, bench, ratios
from looper.benchmarks.capacity.load.cases import cases_of
from looper.benchmarks.capacity.load.figures import Figures, Times
from looper.benchmarks.capacity.simulation.predict import carried, simulation, to_tables
from looper.benchmarks.capacity.simulation.simulator import Cluster, Costs
from tests.tiny import tiny_base


def row(peer: str, kind: str, count: int, tokens: float, first: float, cold: float | None = None) -> CapacityRow:
    times = Times(p50=first, p95=2 * first, p99=3 * first)
    figures = Figures(
        requests=1, failed=0, requests_per_s=1, tokens_per_s=tokens, first_s=times, between_s=None, slo=1, found={}
    )
    return CapacityRow.of(
        [CapacityRound(peer=peer, kind=kind, adapters=count, rate=1, figures=figures, stolen=0, all_answered_s=cold)]
    )


def test_what_is_compared() -> None:
    rows = [
        row("looper", "full", 5, 100, 9),
        row("looper", "full", 512, 96, 9),
        row("looper", "steady", 5, 1, 0.5),
        row("looper", "steady", 512, 1, 0.6),
        row("looper", "cold", 32, 1, 1, cold=2.0),
        row("other", "full", 512, 48, 9),
        row("other", "steady", 512, 1, 2.4),
        row("other", "cold", 32, 1, 1, cold=8.0),
    ]
    assert ratios(rows) == {
        "throughput at 512 over 5": 0.96,
        "TTFT p95 at 512 over 5": 1.2,
        "throughput over other, 512": 2.0,
        "TTFT p99 over other, 512": 0.25,
        "32 cold over other": 0.25,
    }


COSTS = Costs(step=0.05, sequence=0.002, prompt_token=0.0005, adapter=0.005, request=0.02, load=0.3, reload=0.05)
CLUSTER = Cluster(seats=16, slots=8, in_memory=64, on_disk=256, step_tokens=64, line=64)


def test_a_cluster_carries_fewer_adapters_at_a_higher_rate_and_more_with_more_engines() -> None:
    assert carried(CLUSTER, COSTS, 50).adapters == 0, "more than an engine answers"
    few, many = carried(CLUSTER, COSTS, 3).adapters, carried(CLUSTER, COSTS, 1).adapters
    assert 0 < few <= many
    two = CLUSTER.model_copy(update={"replicas": 2})
    assert carried(two, COSTS, 3).adapters >= few


def test_predictions_stand_beside_what_was_measured() -> None:
    (case, _) = cases_of("looper", [8], 4.0, 20)
    measured = row("looper", "full", 8, 100, 9).figures
    found = simulation([(case, measured)], CLUSTER, COSTS, rates=[50], replicas=[1])
    (prediction,) = found.predictions
    assert prediction.throughput_error == pytest.approx(abs(prediction.predicted.tokens_per_s / 100 - 1))
    assert [table.row_count for table in to_tables(found)] == [1, 1]


def test_the_whole_benchmark_on_peft_and_only_what_is_missing_again(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    noted: list[str] = []

    def run() -> None:
        options = {"peers": ["peft"], "counts": [3], "seconds": 2.0, "machine": "this one"}
        report = bench(tmp_path / "out", "tiny", base, notify=noted.append, **options)  # type: ignore[arg-type]
        kinds = [(each.peer, each.kind) for each in report.rows]
        assert kinds == [("peft", "full"), ("peft", "steady"), ("peft", "cold")]
        steady = report.rows[1].figures
        assert (steady.failed, steady.slo) == (0, 1)
        assert report.rows[2].figures.failed == 0

    run()
    assert "peft starts" in noted
    assert (tmp_path / "out" / "capacity.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "capacity.json").read_text())["machine"] == "this one"
    noted.clear()
    run()
    assert noted == ["99 adapters"], "nothing was measured again"


def test_adapters_have_the_shape_that_looper_trains(tmp_path: Path) -> None:
    layers = adapters.shapes(tiny_base(tmp_path))
    assert {name.rpartition(".")[2] for name in layers} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
