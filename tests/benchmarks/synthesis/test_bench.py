from collections import Counter
from pathlib import Path

import pytest

from looper.benchmarks.synthesis.bench import SynthesisRow, bench, many, plan, row, to_markdown
from looper.benchmarks.synthesis.corpus import Corpus
from looper.benchmarks.synthesis.variants import SynthesisMeasurement, digest, looper_over_ray, plain_loop, store_in
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.platform.domain.errors import LooperError
from looper.platform.objectstore import keys
from looper.platform.trajectories.table import from_parquet

SECONDS = {"plain loop": 80.0, "datasets.map": 70.0, "looper, 1 worker": 90.0, "looper, 2 workers": 50.0, "looper": 0.1}


def test_all_ways_make_the_same_examples_of_more_than_one_group(ray_local: None, tmp_path: Path) -> None:
    corpus, store = Corpus(1, 1100), store_in(tmp_path)
    corpus.write(store)
    found = set()
    for name, work in (("plain", plain_loop), ("looper", looper_over_ray)):
        jobs = corpus.jobs(name)
        work(jobs, store, tmp_path)
        found.add(digest(store, jobs))
    assert len(found) == 1


def test_the_episodes_of_a_corpus_are_of_ever_new_tasks(tmp_path: Path) -> None:
    corpus, store = Corpus(1, 1500), store_in(tmp_path)
    corpus.write(store)
    (job,) = corpus.jobs("test")
    batches = [from_parquet(store.get(keys.trajectories(job.instance, batch))) for batch in job.batches]
    assert [len(batch) for batch in batches] == [500, 500, 500]
    report, _ = synthesize_in_memory(batches, 0.2)
    assert report.train + report.holdout > 1200
    assert report.rejected["duplicate"] < 100


def test_a_way_is_measured_in_a_process_of_its_own_once(tmp_path: Path) -> None:
    corpus = Corpus(2, 40)
    found = row("plain loop", corpus, tmp_path)
    assert found.measured is not None
    assert found.measured.seconds > 0
    assert found.measured.peak_memory_bytes > 50e6
    assert row("plain loop", corpus, tmp_path) == found
    assert not (tmp_path / "store" / "examples").exists() or not [*(tmp_path / "store" / "examples").iterdir()]


def _write_rows(out: Path, odd: str | None = None) -> None:
    for variant, corpus in plan(100_000):
        measured = SynthesisMeasurement(
            seconds=SECONDS[variant], peak_memory_bytes=corpus.trajectories * 10, digest="b" if variant == odd else "a"
        )
        cached = SynthesisRow(
            variant=variant, instances=corpus.instances, trajectories=corpus.trajectories, measured=measured
        )
        file = out / f"{variant.replace(' ', '-').replace(',', '')}-{corpus.name}.json"
        file.write_text(cached.model_dump_json())


def test_what_is_cached_is_not_run_again(tmp_path: Path) -> None:
    _write_rows(tmp_path)
    report = bench(100_000, tmp_path, "a machine", lambda _: None)
    assert report.ratios["2 workers faster than looper, 1 worker at 100000"] == 1.8
    assert report.ratios["peak memory at 100000 over 10000"] == 10.0
    assert report.ratios["seconds of 2000 instances in one job"] == 50.0
    assert "| looper, 2 workers | 4 | 100000 | 50.0 | 2000 | 0.00 GB |" in to_markdown(report)
    assert Counter(each.variant for each in report.rows)["looper, 2 workers"] == 5
    assert many(100_000) == Corpus(2000, 20_000)


def test_ways_that_make_other_examples_are_not_compared(tmp_path: Path) -> None:
    _write_rows(tmp_path, odd="looper, 1 worker")
    with pytest.raises(LooperError, match="other examples"):
        bench(100_000, tmp_path, "a machine", lambda _: None)
