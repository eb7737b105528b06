"""The stages that ask about an instance's episodes together, in a job of Ray Data and with a real endpoint."""

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
ANSWERS: dict[str, dict[str, Any]] = {
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
    """Answers each kind of question in its way, and keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            server: "Model"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                system, user = (message["content"] for message in body["messages"])
                kind = next(kind for kind in ANSWERS if kind in system)
                self.server.asked.append((kind, user))
                said = {"choices": [{"message": {"role": "assistant", "content": json.dumps(ANSWERS[kind])}}]}
                answer = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

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


def noted(task: int) -> Trajectory:
    made = episode(task)
    told = Step(source="system", content="You book rooms.\n<notes>Book each day by itself.</notes>")
    return Trajectory.of(
        task_id=made.task_id, format="test", steps=(told, *made.steps[1:]), outcome=made.outcome, tools=made.tools
    )


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(load_settings(home=tmp_path, base="tiny"))


@pytest.fixture
def jobs(tmp_path: Path, store: ObjectStore) -> Iterator[list[Consolidation]]:
    catalog = Catalog.open(load_settings(home=tmp_path, base="tiny"))
    batches = {"acme/desk": [noted(task) for task in range(8)], "acme/other": [noted(task) for task in range(8, 11)]}
    yield [submit(catalog, store, name, batch, base="tiny") for name, batch in batches.items()]
    catalog.close()


def test_rules_and_variants_lie_beside_the_examples_and_are_named_by_the_report(
    ray_local: None, model: Model, store: ObjectStore, jobs: list[Consolidation]
) -> None:
    reports = synthesize(jobs, store, 0.2, model.settings("rules", "variants", "distillation"))
    asked = 0
    for job, tasks in zip(jobs, (range(8), range(8, 11)), strict=True):
        told = [task for task in tasks if not is_holdout(f"task-{task}", 0.2)]
        asked += len(told)
        rules = json.loads(store.get(keys.examples(job.id, "rules.json")))
        assert [note["text"] for note in rules["rules"]] == [RULE]
        assert len(rules["rules"][0]["trajectories"]) == sum(min(2, len(told[at : at + 6])) for at in (0, 6))
        assert {drop["reason"] for drop in rules["dropped"]} == {"unsupported"}
        variants = json.loads(store.get(keys.examples(job.id, "variants.json")))
        assert [new["request"] for new in variants["variants"]] == ANSWERS["other requests"]["requests"][:1]
        assert {drop["reason"] for drop in variants["dropped"]} == {"variant_known"}
        assert reports[job.id].beside == {"rules.json": 1, "variants.json": 1}
        assert 'href="variants.json"' in store.get(keys.examples(job.id, "report.html")).decode()
        assert all("notes" not in example.turns[0].content for example in read_examples(_train(store, job)))
        assert reports[job.id].tally.found["distillation: distilled"] == len(tasks)
    kinds = Counter(kind for kind, _ in model.asked)
    assert (kinds["other requests"], kinds['with "notes"']) == (asked, 11)
    hinted = [json.loads(record).get("ways") for kind, record in model.asked if kind == 'with "notes"']
    assert hinted == [[RULE]] * 11


def test_what_nobody_asked_for_is_not_there(
    ray_local: None, model: Model, store: ObjectStore, jobs: list[Consolidation]
) -> None:
    reports = synthesize(jobs, store, 0.2, model.settings("distillation"))
    for job in jobs:
        assert reports[job.id].beside == {}
        assert not store.exists(keys.examples(job.id, "rules.json"))
    assert all("ways" not in json.loads(record) for _, record in model.asked)


def _train(store: ObjectStore, job: Consolidation) -> bytes:
    return store.get(keys.examples(job.id, "train.parquet"))
