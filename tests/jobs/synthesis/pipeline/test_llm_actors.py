"""The stages that compare the episodes of an instance, with Ray Data and a real HTTP endpoint."""

import json
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.pipeline.run import synthesize
from looper.jobs.synthesis.stages.holdout_split import is_holdout
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.trajectory import Step, Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import ModelSettings, ModelStage, SynthesisSettings, load_settings
from tests.jobs.episodes import episode, submit

RULE = "Call book once for each day that is asked for."
RESPONSES: dict[str, dict[str, Any]] = {
    "Compare episodes": {
        "notes": [
            {"kind": "rule", "text": RULE, "episodes": ["e1", "e2"]},
            {"kind": "workflow", "text": "Nobody did this.", "episodes": ["e99"]},
        ]
    },
    "other requests": {"requests": ["Could I have the green room for the whole of next week?", "Book day 3. Please."]},
    'with "notes"': {"learnable": True, "why": "a way of working"},
}


class Model(ThreadingHTTPServer):
    """An endpoint with one response for each kind of request. It records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            server: "Model"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                system, user = (message["content"] for message in body["messages"])
                kind = next(kind for kind in RESPONSES if kind in system)
                self.server.requests.append((kind, user))
                completion = {"choices": [{"message": {"role": "assistant", "content": json.dumps(RESPONSES[kind])}}]}
                body = json.dumps(completion).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    def settings(self, *stages: ModelStage) -> SynthesisSettings:
        url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        return SynthesisSettings(model=ModelSettings(stages=stages, endpoint=url, name="m"))


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def episode_with_notes(task: int) -> Trajectory:
    original = episode(task)
    system = Step(source="system", content="You book rooms.\n<notes>Book each day by itself.</notes>")
    return Trajectory.create(
        task_id=original.task_id,
        format="test",
        steps=(system, *original.steps[1:]),
        outcome=original.outcome,
        tools=original.tools,
    )


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(load_settings(home=tmp_path, base="tiny"))


@pytest.fixture
def jobs(tmp_path: Path, store: ObjectStore) -> Iterator[list[Consolidation]]:
    catalog = Catalog.open(load_settings(home=tmp_path, base="tiny"))
    batches = {
        "acme/desk": [episode_with_notes(task) for task in range(8)],
        "acme/other": [episode_with_notes(task) for task in range(8, 11)],
    }
    yield [submit(catalog, store, name, batch, base="tiny") for name, batch in batches.items()]
    catalog.close()


def test_rules_and_variants_are_written_and_listed_in_the_report(
    ray_local: None, model: Model, store: ObjectStore, jobs: list[Consolidation]
) -> None:
    reports = synthesize(jobs, store, 0.2, model.settings("rules", "variants", "distillation"))
    num_training_tasks = 0
    for job, tasks in zip(jobs, (range(8), range(8, 11)), strict=True):
        training_tasks = [task for task in tasks if not is_holdout(f"task-{task}", 0.2)]
        num_training_tasks += len(training_tasks)
        rules = json.loads(store.get(keys.examples(job.id, "rules.json")))
        assert [note["text"] for note in rules["rules"]] == [RULE]
        assert len(rules["rules"][0]["trajectories"]) == sum(
            min(2, len(training_tasks[start : start + 6])) for start in (0, 6)
        )
        assert {drop["reason"] for drop in rules["dropped"]} == {"unsupported"}
        variants = json.loads(store.get(keys.examples(job.id, "variants.json")))
        assert [new["request"] for new in variants["variants"]] == RESPONSES["other requests"]["requests"][:1]
        assert {drop["reason"] for drop in variants["dropped"]} == {"variant_known"}
        assert reports[job.id].beside == {"rules.json": 1, "variants.json": 1}
        assert 'href="variants.json"' in store.get(keys.examples(job.id, "report.html")).decode()
        assert all("notes" not in example.turns[0].content for example in read_examples(_train(store, job)))
        assert reports[job.id].tally.found["distillation: distilled"] == len(tasks)
    kinds = Counter(kind for kind, _ in model.requests)
    assert (kinds["other requests"], kinds['with "notes"']) == (num_training_tasks, 11)
    hints = [json.loads(record).get("ways") for kind, record in model.requests if kind == 'with "notes"']
    assert hints == [[RULE]] * 11


def test_disabled_instance_stages_write_no_files(
    ray_local: None, model: Model, store: ObjectStore, jobs: list[Consolidation]
) -> None:
    reports = synthesize(jobs, store, 0.2, model.settings("distillation"))
    for job in jobs:
        assert reports[job.id].beside == {}
        assert not store.exists(keys.examples(job.id, "rules.json"))
    assert all("ways" not in json.loads(record) for _, record in model.requests)


def _train(store: ObjectStore, job: Consolidation) -> bytes:
    return store.get(keys.examples(job.id, "train.parquet"))
