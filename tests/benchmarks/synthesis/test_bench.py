"""Tests of ``looper bench synthesis``: the variants, the corpus, and results that are kept."""

from collections import Counter
from pathlib import Path

import pytest

from looper.benchmarks.synthesis.bench import (
    SynthesisRow,
    bench,
    load_or_measure,
    many_instance_corpus,
    plan_measurements,
    to_markdown,
)
from looper.benchmarks.synthesis.corpus import Corpus
from looper.benchmarks.synthesis.variants import (
    SynthesisMeasurement,
    digest_examples,
    open_store,
    run_looper_with_ray,
    run_plain_loop,
)
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.platform.domain.errors import LooperError
from looper.platform.objectstore import keys
from looper.platform.trajectories.table import from_parquet

SECONDS = {"plain loop": 80.0, "datasets.map": 70.0, "looper, 1 worker": 90.0, "looper, 2 workers": 50.0, "looper": 0.1}


def test_variants_make_the_same_examples_of_a_large_corpus(ray_local: None, tmp_path: Path) -> None:
    corpus, store = Corpus(1, 1100), open_store(tmp_path)
    corpus.write(store)
    digests = set()
    for name, synthesize in (("plain", run_plain_loop), ("looper", run_looper_with_ray)):
        jobs = corpus.build_jobs(name)
        synthesize(jobs, store, tmp_path)
        digests.add(digest_examples(store, jobs))
    assert len(digests) == 1


def test_repeated_episodes_of_a_corpus_are_new_tasks(tmp_path: Path) -> None:
    corpus, store = Corpus(1, 1500), open_store(tmp_path)
    corpus.write(store)
    (job,) = corpus.build_jobs("test")
    batches = [from_parquet(store.get(keys.trajectories(job.instance, batch))) for batch in job.batches]
    assert [len(batch) for batch in batches] == [500, 500, 500]
    report, _ = synthesize_in_memory(batches, 0.2)
    assert report.train + report.holdout > 1200
    assert report.rejected["duplicate"] < 100


def test_a_variant_is_measured_once_in_a_process_of_its_own(tmp_path: Path) -> None:
    corpus = Corpus(2, 40)
    result = load_or_measure("plain loop", corpus, tmp_path)
    assert result.measured is not None
    assert result.measured.seconds > 0
    assert result.measured.peak_memory_bytes > 50e6
    assert load_or_measure("plain loop", corpus, tmp_path) == result
    assert not (tmp_path / "store" / "examples").exists() or not [*(tmp_path / "store" / "examples").iterdir()]


def _write_rows(out: Path, different_variant: str | None = None) -> None:
    for variant, corpus in plan_measurements(100_000):
        measured = SynthesisMeasurement(
            seconds=SECONDS[variant],
            peak_memory_bytes=corpus.trajectories * 10,
            digest="b" if variant == different_variant else "a",
        )
        cached = SynthesisRow(
            variant=variant, instances=corpus.instances, trajectories=corpus.trajectories, measured=measured
        )
        file = out / f"{variant.replace(' ', '-').replace(',', '')}-{corpus.name}.json"
        file.write_text(cached.model_dump_json())


def test_existing_results_are_not_measured_again(tmp_path: Path) -> None:
    _write_rows(tmp_path)
    report = bench(100_000, tmp_path, "a machine", lambda _: None)
    assert report.ratios["2 workers faster than looper, 1 worker at 100000"] == 1.8
    assert report.ratios["peak memory at 100000 over 10000"] == 10.0
    assert report.ratios["seconds of 2000 instances in one job"] == 50.0
    assert "| looper, 2 workers | 4 | 100000 | 50.0 | 2000 | 0.00 GB |" in to_markdown(report)
    assert Counter(row.variant for row in report.rows)["looper, 2 workers"] == 5
    assert many_instance_corpus(100_000) == Corpus(2000, 20_000)


def test_variants_that_make_other_examples_are_an_error(tmp_path: Path) -> None:
    _write_rows(tmp_path, different_variant="looper, 1 worker")
    with pytest.raises(LooperError, match="other examples"):
        bench(100_000, tmp_path, "a machine", lambda _: None)
