"""No response ever comes from another adapter than the requested one: each generates a token of its own."""

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
from tests.serve.live import LiveServer, find_processes
from tests.serve.marks import distinct_tokens, single_token_adapter
from tests.serve.published import publish_version

SKILLS = 60
"""Number of skills with two versions each: more adapters than the slots, host memory or disk of the server hold."""


ANSWERS = 100_000


@dataclass
class Skill:
    name: InstanceName
    versions: tuple[str, str]
    text_by_digest: dict[str, str]
    """What each version generates."""
    current: str
    promoted_at: float = 0.0
    """When the promotion to ``current`` had ended."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def publish_skills(live: LiveServer, tenant: str) -> list[Skill]:
    tokens = random.Random(0).sample(distinct_tokens(live.base), 2 * SKILLS)
    tokenizer = AutoTokenizer.from_pretrained(live.base)
    skills = []
    for number in range(SKILLS):
        name = InstanceName(tenant, f"agent-{number}")
        two = [single_token_adapter(live.base, name, token) for token in tokens[2 * number : 2 * number + 2]]
        digests = [publish_version(live.catalog, live.store, name, files) for files in two]
        texts = {
            digest: 3 * tokenizer.decode([token]) for digest, token in zip(digests, tokens[2 * number :], strict=False)
        }
        skills.append(Skill(name, (digests[0], digests[1]), texts, digests[1]))
    return skills


@contextmanager
def promote_continuously(live: LiveServer, skills: list[Skill], interval_s: float) -> Iterator[Counter[str]]:
    """Promote the other version of one skill after another while the context is open."""
    stop, counts, rng = threading.Event(), Counter[str](), random.Random(1)

    def promote() -> None:
        while not stop.wait(interval_s):
            skill = rng.choice(skills)
            first, second = skill.versions
            with skill.lock:
                skill.current = second if skill.current == first else first
                live.catalog.set_channel(skill.name, "prod", skill.current)
                skill.promoted_at = time.monotonic()
            counts["promoted"] += 1

    thread = threading.Thread(target=promote)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def send_many(live: LiveServer, key: str, skills: list[Skill], answers: int, clients: int) -> Counter[str]:
    """Send requests until there are so many answers; count outcomes. A request that is not answered is sent again.

    Fails at the first answer of a wrong adapter, or of a version that was replaced before.
    """
    counts: Counter[str] = Counter()
    weights = [1 / rank for rank in range(1, len(skills) + 1)]
    sequence = random.Random(2).choices(skills, weights, k=answers)
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=300) as client:

        def send(skill: Skill) -> None:
            while not is_answered(skill):
                time.sleep(0.5)

        def is_answered(skill: Skill) -> bool:
            with skill.lock:
                current, promoted_at, sent_at = skill.current, skill.promoted_at, time.monotonic()
            body = {"model": str(skill.name), "prompt": "Please book", "max_tokens": 3, "temperature": 0}
            response = client.post("/v1/completions", json=body)
            if response.status_code != 200:
                assert response.status_code in (500, 503), response.text
                counts[response.json()["error"]["code"]] += 1
                return False
            version = response.headers["x-looper-version"]
            assert response.json()["choices"][0]["text"] == skill.text_by_digest[version]
            assert response.json()["model"] == str(skill.name)
            if skill.promoted_at == promoted_at:  # no promotion during the request
                assert version == current, f"sent at {sent_at}, promoted at {promoted_at}"
            counts[response.headers["x-looper-adapter"]] += 1
            return True

        with ThreadPoolExecutor(clients) as pool:
            for number, _ in enumerate(pool.map(send, sequence), 1):
                if number % 1000 == 0:
                    print(f"{time.strftime('%H:%M:%S')} {number} answers, {dict(counts)}", flush=True)
    return counts


def test_every_response_comes_from_the_requested_version(live: LiveServer) -> None:
    skills = publish_skills(live, "marks")
    key = live.tenant("marks").api_key
    with promote_continuously(live, skills, 0.1) as promotions:
        counts = send_many(live, key, skills, 400, clients=8)
    assert counts.total() == 400
    assert counts.keys() <= {"memory", "disk", "store"}, "no request failed"
    assert min(counts["memory"], counts["store"], promotions["promoted"]) > 0, (counts, promotions)


@pytest.mark.bench
@pytest.mark.timeout(3 * 3600)
def test_a_hundred_thousand_responses_under_evictions_promotions_and_restarts(live: LiveServer) -> None:
    skills = publish_skills(live, "many-marks")
    key = live.tenant("many-marks").api_key
    stop, killed = threading.Event(), Counter[str]()

    def kill() -> None:
        while not stop.wait(300):
            for engine in find_processes("ServeReplica:looper:skills"):
                engine.kill()
                killed["engines"] += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with promote_continuously(live, skills, 0.05) as promotions:
            counts = send_many(live, key, skills, ANSWERS, clients=16)
    finally:
        stop.set()
        killer.join()
    print(f"{dict(counts)}, {dict(promotions)}, {dict(killed)}")
    assert counts["memory"] + counts["disk"] + counts["store"] == ANSWERS
    assert counts.keys() <= {"memory", "disk", "store", "engine_gone", "engine_died"}
    assert killed["engines"] > 0
