"""The consolidation benchmark reuses results that are on disk, and compares them."""

from pathlib import Path

from looper.benchmarks.consolidation.bench import ConsolidationRow, bench, to_markdown
from looper.benchmarks.consolidation.variants import VARIANTS


def test_cached_variants_are_not_run_again_and_one_that_did_not_fit_has_no_ratio(tmp_path: Path) -> None:
    for name, makespan in zip(VARIANTS, (400.0, 100.0, None, 80.0, 50.0), strict=True):
        row = ConsolidationRow(
            variant=name,
            makespan_s=makespan,
            median_s=makespan and makespan / 2,
            tokens_per_s=makespan and 8000 / makespan,
            peak_memory_bytes=19_000_000_000 if makespan is None else 8_000_000_000,
            published=14 if name.startswith("looper") else None,
        )
        (tmp_path / f"{name.replace(' ', '-').replace(',', '')}-16x8.json").write_text(row.model_dump_json())

    report = bench(16, 8, tmp_path, "tiny", tmp_path / "no model", "a machine", lambda _: None)

    assert report.ratios == {
        "faster than one TorchTrainer each": 5.0,
        "faster than in turn, plain PEFT": 1.25,
        "trainer at work: faster than one TorchTrainer each": 8.0,
        "trainer at work: faster than in turn, plain PEFT": 2.0,
        "gigabytes less than side by side": 11.0,
    }
    lines = to_markdown(report).splitlines()
    assert "| side by side | did not fit |  |  | more than 19.0 GB |  |" in lines
    assert "| looper | 80 s | 40 s | 100 | 8.0 GB | 14 |" in lines
    assert (tmp_path / "consolidation.json").exists()
