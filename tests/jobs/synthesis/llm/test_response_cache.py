"""Answers that outlive the job that asked for them."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from looper.jobs.synthesis.llm.request import LLMRequest
from looper.jobs.synthesis.llm.response_cache import ask_cached
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings

KILLED = """
import os, signal, sys
from pathlib import Path
from looper.platform.settings import load_settings
from looper.platform.objectstore import ObjectStore
from tests.jobs.synthesis.llm.test_response_cache import Counting, again
store, log = ObjectStore.open(load_settings(home=sys.argv[1])), Path(sys.argv[2])

class Killed(Counting):
    def __call__(self, requests):
        if len(self.asked) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(requests)

again(Killed(log), store)
"""
"""A job that is killed in its third batch."""


class Counting:
    """An ``Ask`` that says what it was asked, and writes down each question in ``log``."""

    def __init__(self, log: Path, *, silent_to: frozenset[str] = frozenset()) -> None:
        self.log = log
        self.silent_to = silent_to

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        with self.log.open("a") as log:
            log.writelines(f"{request.record}\n" for request in requests)
        return [None if request.record in self.silent_to else f"to {request.record}" for request in requests]

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


RECORDS = [f"question {number}" for number in range(10)]
ANSWERS = [f"to {record}" for record in RECORDS]


def again(
    ask: Counting, store: ObjectStore, records: Sequence[str] = RECORDS, tenant: str = "acme", model: str = "m"
) -> list[str | None]:
    requests = [LLMRequest("Answer.", record) for record in records]
    return ask_cached(requests, ask, store, tenant, model, together=3)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(load_settings(home=tmp_path))


@pytest.fixture
def ask(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "asked")


def test_a_job_that_was_killed_half_way_asks_nothing_twice(tmp_path: Path, store: ObjectStore, ask: Counting) -> None:
    job = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(ask.log)], check=False)
    assert job.returncode == -signal.SIGKILL
    assert ask.asked == RECORDS[:6]
    assert again(ask, store) == ANSWERS
    assert ask.asked == RECORDS


def test_what_was_answered_is_not_asked_again(store: ObjectStore, ask: Counting) -> None:
    assert again(ask, store) == again(ask, store, RECORDS[::-1])[::-1] == ANSWERS
    assert ask.asked == RECORDS


def test_the_same_question_is_asked_once(store: ObjectStore, ask: Counting) -> None:
    assert again(ask, store, ["a", "b", "a", "a"]) == ["to a", "to b", "to a", "to a"]
    assert ask.asked == ["a", "b"]


def test_what_had_no_answer_is_asked_again(tmp_path: Path, store: ObjectStore, ask: Counting) -> None:
    unsure = Counting(ask.log, silent_to=frozenset(RECORDS[:2]))
    assert again(unsure, store) == [None, None, *ANSWERS[2:]]
    assert again(ask, store) == ANSWERS
    assert ask.asked == [*RECORDS, *RECORDS[:2]]


def test_an_empty_answer_is_an_answer(store: ObjectStore) -> None:
    request = LLMRequest("Answer.", "a")
    assert ask_cached([request], lambda _: [""], store, "acme", "m") == [""]
    assert ask_cached([request], lambda _: ["never"], store, "acme", "m") == [""]


def test_a_model_that_is_gone_is_not_asked_to_the_end(store: ObjectStore, ask: Counting) -> None:
    gone = Counting(ask.log, silent_to=frozenset(RECORDS[3:]))
    assert again(gone, store) == [*ANSWERS[:3], *[None] * 7]
    assert ask.asked == RECORDS[:6]


def test_another_tenant_model_or_question_is_another(store: ObjectStore, ask: Counting) -> None:
    again(ask, store, ["a"])
    again(ask, store, ["a"], tenant="umbrella")
    again(ask, store, ["a"], model="n")
    assert ask.asked == ["a"] * 3
    base = LLMRequest("Answer.", "a", max_tokens=5)
    others = [LLMRequest("Answer.a", "", 5), LLMRequest("Answer.", "b", 5), LLMRequest("Answer.", "a", 6)]
    assert len({request.digest("m") for request in (base, *others)} | {base.digest("n")}) == 5


def test_answers_are_kept_beside_their_tenant(store: ObjectStore, ask: Counting) -> None:
    again(ask, store, ["a"])
    (key,) = store.list("answers/acme")
    assert key == f"answers/acme/{LLMRequest('Answer.', 'a').digest('m')}.json"
