"""Synthesis with Ray Data: the same result as in one process, resumable, and robust against bad rows."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from looper.benchmarks.synthesis.planted_defects.trajectories import plant_defects
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.pipeline.run import MAX_IN_PROCESS_BYTES, SynthesisStalled, synthesize
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import ModelSettings, Settings, SynthesisSettings, load_settings
from tests.jobs.episodes import RECIPE, episode, ingest

FILES = ("train.parquet", "holdout.parquet", "pairs.parquet", "rejected.parquet")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, base="tiny")


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    catalog = Catalog.open(settings)
    yield catalog
    catalog.close()


def queue(catalog: Catalog, store: ObjectStore, name: str, batches: list[list[Trajectory]]) -> Consolidation:
    instance = InstanceName.parse(name)
    for number, batch in enumerate(batches):
        ingest(catalog, store, instance, batch, f"{name.replace('/', '-')}-{number}")
    return catalog.submit(instance, base="tiny", recipe=RECIPE)


def files(store: ObjectStore, id: str) -> dict[str, bytes]:
    return {name: store.get(keys.examples(id, name)) for name in (*FILES, "report.json")}


def test_ray_data_and_one_process_write_the_same_files(
    ray_local: None, catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, corpus = ObjectStore.open(settings), plant_defects(0)
    batches = {
        name: [b for b, i in zip(corpus.batches, corpus.instances, strict=True) if i == name]
        for name in corpus.instances
    }
    jobs = [queue(catalog, store, name, some) for name, some in batches.items()]
    reports = synthesize(jobs, store, 0.2, max_in_process_bytes=0)
    for job, some in zip(jobs, batches.values(), strict=True):
        report, expected = synthesize_in_memory(some, 0.2)
        assert reports[job.id] == report
        assert {name: store.get(keys.examples(job.id, name)) for name in FILES} == expected
        assert report.trajectories == report.train + report.holdout + sum(report.rejected.values())
        assert "Why trajectories were left out" in store.get(keys.examples(job.id, "report.html")).decode()
        assert store.list(keys.examples(job.id, "parts")) == []


@pytest.mark.parametrize("max_bytes", [0, MAX_IN_PROCESS_BYTES])
def test_a_bad_row_does_not_affect_other_rows(
    ray_local: None, catalog: Catalog, settings: Settings, max_bytes: int
) -> None:
    store = ObjectStore.open(settings)
    bad = episode(3).model_copy(update={"outcome": episode(3).outcome.model_copy(update={"detail": "[" * 100_000})})
    job = queue(catalog, store, "acme/desk", [[*(episode(task) for task in range(12) if task != 3), bad]])
    report = synthesize([job], store, 0.2, max_in_process_bytes=max_bytes)[job.id]
    assert report.trajectories == 12
    assert report.train + report.holdout + sum(report.rejected.values()) == 12
    assert report.train + report.holdout >= 11


class Judge(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that says yes to everything and counts requests."""

    def __init__(self, pause_s: float) -> None:
        self.requests: Counter[bytes] = Counter()
        self.pause_s = pause_s

        class Handler(BaseHTTPRequestHandler):
            server: "Judge"

            def do_POST(self) -> None:
                self.server.requests[self.rfile.read(int(self.headers["content-length"]))] += 1
                time.sleep(self.server.pause_s)
                answer = {
                    "choices": [{"message": {"role": "assistant", "content": '{"success": true, "why": "done"}'}}]
                }
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def settings(self) -> SynthesisSettings:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return SynthesisSettings(model=ModelSettings(stages=("judge",), endpoint=url, name="judge", max_concurrency=2))


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge(pause_s=0.01)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.bench
def test_a_killed_job_continues_where_it_was(
    ray_local: None, catalog: Catalog, settings: Settings, judge: Judge, tmp_path: Path
) -> None:
    """A process is killed while it sends requests. Another finishes and writes the bytes of an undisturbed job."""
    store = ObjectStore.open(settings)
    batch = [episode(task, success=True if task % 4 == 0 else None) for task in range(300)]
    job, twin = (queue(catalog, store, name, [batch]) for name in ("acme/desk", "acme/twin"))
    undisturbed = synthesize([twin], store, 0.2, judge.settings)[twin.id]
    requests, judge.requests = judge.requests, Counter()
    assert sum(requests.values()) == 225
    assert undisturbed.tally.found["judge: judged_success"] == 225

    store.delete("answers")
    arguments = [settings.model_dump_json(), job.id, judge.settings.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.synthesis.driver", *arguments], start_new_session=True
    )
    while sum(judge.requests.values()) < 120:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not store.exists(keys.examples(job.id, "report.json"))
    synthesize([job], store, 0.2, judge.settings)
    assert files(store, job.id) == files(store, twin.id)
    repeated = sum(judge.requests.values()) - 225
    assert repeated <= 64, "more is repeated than the batch that was in flight"


def test_a_stage_that_hangs_is_given_up_and_the_next_run_works(
    ray_local: None, catalog: Catalog, settings: Settings
) -> None:
    store = ObjectStore.open(settings)
    good, hanging = (queue(catalog, store, name, [[episode(1), episode(2)]]) for name in ("acme/a", "acme/b"))
    path = settings.home / "store" / keys.trajectories(hanging.instance, hanging.batches[0])
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # a reader waits forever
    with pytest.raises(SynthesisStalled, match="made no progress for 5 s"):
        synthesize([good, hanging], store, 0.2, max_in_process_bytes=0, stall_timeout_s=5)
    path.unlink()
    path.write_bytes(content)
    advances: list[None] = []
    reports = synthesize([good, hanging], store, 0.2, max_in_process_bytes=0, on_progress=lambda: advances.append(None))
    assert {report.failure for report in reports.values()} == {None}
    assert len(advances) >= 2, "each block is progress"
