"""No answer ever comes from another adapter than the one asked for: each says a mark of its own."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from transformers import AutoTokenizer

from looper.platform.domain.names import InstanceName
from tests.serve.live import Live, processes
from tests.serve.marks import mark_adapter, marks
from tests.serve.published import publish_version

SKILLS = 60
"""Each has two versions: more adapters than slots, than memory and than the disk of the server under test."""


@dataclass
class Skill:
    name: InstanceName
    versions: tuple[str, str]
    says: dict[str, str]
    """The mark of each version, by digest."""
    current: str
    moved_at: float = 0.0
    """When a promotion to ``current`` had taken place."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def made(live: Live, tenant: str) -> list[Skill]:
    tokens = random.Random(0).sample(marks(live.base), 2 * SKILLS)
    tokenizer = AutoTokenizer.from_pretrained(live.base)
    skills = []
    for number in range(SKILLS):
        name = InstanceName(tenant, f"agent-{number}")
        two = [mark_adapter(live.base, name, token) for token in tokens[2 * number : 2 * number + 2]]
        digests = [publish_version(live.catalog, live.store, name, files) for files in two]
        says = {
            digest: 3 * tokenizer.decode([token]) for digest, token in zip(digests, tokens[2 * number :], strict=False)
        }
        skills.append(Skill(name, (digests[0], digests[1]), says, digests[1]))
    return skills


@contextmanager
def promoting(live: Live, skills: list[Skill], every_s: float) -> Iterator[Counter[str]]:
    """Inside, one skill after another is pointed to its other version."""
    over, counts, chance = threading.Event(), Counter[str](), random.Random(1)

    def promote() -> None:
        while not over.wait(every_s):
            skill = chance.choice(skills)
            first, second = skill.versions
            with skill.lock:
                skill.current = second if skill.current == first else first
                live.catalog.point(skill.name, "prod", skill.current)
                skill.moved_at = time.monotonic()
            counts["promoted"] += 1

    thread = threading.Thread(target=promote)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


def ask_many(live: Live, key: str, skills: list[Skill], requests: int, clients: int) -> Counter[str]:
    """Outcomes; raises at the first answer that is another's, or of a version that was replaced before it was asked."""
    counts: Counter[str] = Counter()
    weights = [1 / rank for rank in range(1, len(skills) + 1)]
    sequence = random.Random(2).choices(skills, weights, k=requests)
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=300) as client:

        def ask(skill: Skill) -> None:
            with skill.lock:
                current, moved_at, asked = skill.current, skill.moved_at, time.monotonic()
            body = {"model": str(skill.name), "prompt": "Please book", "max_tokens": 3, "temperature": 0}
            answer = client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                assert answer.status_code in (500, 503), answer.text
                counts[answer.json()["error"]["code"]] += 1
                return
            version = answer.headers["x-looper-version"]
            assert answer.json()["choices"][0]["text"] == skill.says[version]
            assert answer.json()["model"] == str(skill.name)
            if skill.moved_at == moved_at:  # not promoted while it was answered
                assert version == current, f"asked at {asked}, promoted at {moved_at}"
            counts[answer.headers["x-looper-adapter"]] += 1

        with ThreadPoolExecutor(clients) as pool:
            for _ in pool.map(ask, sequence):
                pass
    return counts


def test_every_answer_is_that_of_the_version_asked_for(live: Live) -> None:
    skills = made(live, "marks")
    key = live.tenant("marks").api_key
    with promoting(live, skills, 0.1) as done:
        counts = ask_many(live, key, skills, 400, clients=8)
    assert counts.total() == 400
    assert counts.keys() <= {"memory", "disk", "store"}, "none failed"
    assert min(counts["memory"], counts["store"], done["promoted"]) > 0, (counts, done)


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_ten_thousand_answers_under_churn_promotion_and_restarts(live: Live) -> None:
    skills = made(live, "many-marks")
    key = live.tenant("many-marks").api_key
    over, killed = threading.Event(), Counter[str]()

    def kill() -> None:
        while not over.wait(60):
            for engine in processes("ServeReplica:looper:skills"):
                engine.kill()
                killed["engines"] += 1

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with promoting(live, skills, 0.05) as done:
            counts = ask_many(live, key, skills, 10_000, clients=16)
    finally:
        over.set()
        killing.join()
    print(f"{dict(counts)}, {dict(done)}, {dict(killed)}")
    answered = counts["memory"] + counts["disk"] + counts["store"]
    assert counts.total() == 10_000
    assert answered + counts["engine_gone"] + counts["engine_failed"] == 10_000
    assert killed["engines"] > 0
