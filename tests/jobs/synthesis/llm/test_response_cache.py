"""Cached responses of a model, which outlive the job that requested them."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from looper.jobs.synthesis.llm.request import LLMRequest
from looper.jobs.synthesis.llm.response_cache import generate_cached
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings

KILLED = """
import os, signal, sys
from pathlib import Path
from looper.platform.settings import load_settings
from looper.platform.objectstore import ObjectStore
from tests.jobs.synthesis.llm.test_response_cache import RecordingModel, generate
store, log = ObjectStore.open(load_settings(home=sys.argv[1])), Path(sys.argv[2])

class Killed(RecordingModel):
    def __call__(self, requests):
        if len(self.records) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(requests)

generate(Killed(log), store)
"""
"""Program of a job that is killed in its third batch."""


class RecordingModel:
    """A ``Generate`` function that repeats each record, and writes it to ``log``."""

    def __init__(self, log: Path, *, unanswered: frozenset[str] = frozenset()) -> None:
        self.log = log
        self.unanswered = unanswered

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        with self.log.open("a") as log:
            log.writelines(f"{request.record}\n" for request in requests)
        return [None if request.record in self.unanswered else f"to {request.record}" for request in requests]

    @property
    def records(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


RECORDS = [f"question {number}" for number in range(10)]
RESPONSES = [f"to {record}" for record in RECORDS]


def generate(
    model: RecordingModel, store: ObjectStore, records: Sequence[str] = RECORDS, tenant: str = "acme", name: str = "m"
) -> list[str | None]:
    requests = [LLMRequest("Answer.", record) for record in records]
    return generate_cached(requests, model, store, tenant, name, batch_size=3)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(load_settings(home=tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> RecordingModel:
    return RecordingModel(tmp_path / "records")


def test_a_killed_job_does_not_repeat_answered_requests(
    tmp_path: Path, store: ObjectStore, model: RecordingModel
) -> None:
    job = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(model.log)], check=False)
    assert job.returncode == -signal.SIGKILL
    assert model.records == RECORDS[:6]
    assert generate(model, store) == RESPONSES
    assert model.records == RECORDS


def test_a_cached_response_is_reused(store: ObjectStore, model: RecordingModel) -> None:
    assert generate(model, store) == generate(model, store, RECORDS[::-1])[::-1] == RESPONSES
    assert model.records == RECORDS


def test_a_duplicate_request_is_sent_once(store: ObjectStore, model: RecordingModel) -> None:
    assert generate(model, store, ["a", "b", "a", "a"]) == ["to a", "to b", "to a", "to a"]
    assert model.records == ["a", "b"]


def test_a_missing_response_is_requested_again(tmp_path: Path, store: ObjectStore, model: RecordingModel) -> None:
    partial_model = RecordingModel(model.log, unanswered=frozenset(RECORDS[:2]))
    assert generate(partial_model, store) == [None, None, *RESPONSES[2:]]
    assert generate(model, store) == RESPONSES
    assert model.records == [*RECORDS, *RECORDS[:2]]


def test_an_empty_response_is_cached(store: ObjectStore) -> None:
    request = LLMRequest("Answer.", "a")
    assert generate_cached([request], lambda _: [""], store, "acme", "m") == [""]
    assert generate_cached([request], lambda _: ["never"], store, "acme", "m") == [""]


def test_an_unavailable_model_gets_no_further_batches(store: ObjectStore, model: RecordingModel) -> None:
    unavailable = RecordingModel(model.log, unanswered=frozenset(RECORDS[3:]))
    assert generate(unavailable, store) == [*RESPONSES[:3], *[None] * 7]
    assert model.records == RECORDS[:6]


def test_the_cache_key_depends_on_tenant_model_and_request(store: ObjectStore, model: RecordingModel) -> None:
    generate(model, store, ["a"])
    generate(model, store, ["a"], tenant="umbrella")
    generate(model, store, ["a"], name="n")
    assert model.records == ["a"] * 3
    base = LLMRequest("Answer.", "a", max_tokens=5)
    others = [LLMRequest("Answer.a", "", 5), LLMRequest("Answer.", "b", 5), LLMRequest("Answer.", "a", 6)]
    assert len({request.digest("m") for request in (base, *others)} | {base.digest("n")}) == 5


def test_responses_are_stored_under_their_tenant(store: ObjectStore, model: RecordingModel) -> None:
    generate(model, store, ["a"])
    (key,) = store.list("answers/acme")
    assert key == f"answers/acme/{LLMRequest('Answer.', 'a').digest('m')}.json"
