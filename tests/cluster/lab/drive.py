"""What a lab's tests do as tenants, on a node: publish marked skills, submit consolidations, and ask.

``python -m tests.cluster.lab.drive publish|submit|ask|...``: each prints one line of JSON.
"""

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoTokenizer

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.jobs.episodes import RECIPE, episode, submit
from tests.serve.marks import distinct_tokens, single_token_adapter
from tests.serve.published import publish_version

TENANTS = ("acme", "globex", "initech", "umbrella")
MARK_TOKENS = 3
SKILLS = Path("skills.json")


def publish(base: str) -> dict[str, Any]:
    """Publish a marked skill of each tenant; keep keys and texts in ``SKILLS``."""
    settings = load_settings()
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    tokenizer, tokens = AutoTokenizer.from_pretrained(base), distinct_tokens(Path(base))
    skills: dict[str, Any] = {}
    for number, tenant in enumerate(TENANTS):
        name = InstanceName(tenant, "agent")
        digest = publish_version(catalog, store, name, single_token_adapter(Path(base), name, tokens[number]))
        skills[str(name)] = {
            "key": issue_key(catalog, tenant),
            "texts": {digest: tokenizer.decode([tokens[number]])},
        }
    SKILLS.write_text(json.dumps(skills))
    return {"skills": len(skills)}


def submit_all(base: str, count: str, first: str = "0", epochs: str = "2") -> dict[str, Any]:
    """Queue consolidations of one new instance each, of all tenants in turns, numbered from ``first``."""
    settings = load_settings()
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    ids = []
    recipe = RECIPE.model_copy(update={"epochs": int(epochs)})
    for number in range(int(first), int(first) + int(count)):
        name = f"{TENANTS[number % len(TENANTS)]}/trained-{number}"
        batch = [episode(task, room=f"room-{number}") for task in range(12)]
        ids.append(submit(catalog, store, name, batch, base=base, recipe=recipe, id=f"b{number}").id)
    return {"ids": ids}


def wait_for_consolidations(seconds: str) -> dict[str, Any]:
    """Wait until all consolidations have ended; return how many in which state."""
    catalog, deadline = Catalog.open(load_settings()), time.monotonic() + float(seconds)
    began = time.monotonic()
    while catalog.list_unfinished() and time.monotonic() < deadline:
        time.sleep(0.5)
    counts = {str(state): count for state, count in catalog.count_consolidations().items()}
    return {"states": counts, "seconds": round(time.monotonic() - began, 1)}


def ask(count: str, threads: str, *urls: str) -> dict[str, Any]:
    """Send requests by name to all gateways in turns, and check every answer's mark."""
    skills = json.loads(SKILLS.read_text())
    names = sorted(skills)

    def send(number: int) -> tuple[str, str, float]:
        name, url = names[number % len(names)], urls[number % len(urls)]
        body = {"model": name, "prompt": "Please book", "max_tokens": MARK_TOKENS, "temperature": 0, "ignore_eos": True}
        headers, began = {"authorization": f"Bearer {skills[name]['key']}"}, time.monotonic()
        try:
            response = http.post(f"{url}/v1/completions", json=body, headers=headers)
        except httpx.TransportError as error:
            return url, type(error).__name__, time.monotonic() - began
        took = time.monotonic() - began
        if response.status_code != 200:
            return url, f"{response.status_code}", took
        digest, text = response.headers["x-looper-version"], response.json()["choices"][0]["text"]
        is_right = text == MARK_TOKENS * skills[name]["texts"].get(digest, "unknown version")
        return url, "right" if is_right else "wrong", took

    with httpx.Client(timeout=120) as http, ThreadPoolExecutor(int(threads)) as pool:
        results = list(pool.map(send, range(int(count))))
    outcomes = Counter(outcome for _, outcome, _ in results)
    by_url = {url: dict(Counter(outcome for each, outcome, _ in results if each == url)) for url in urls}
    return {"outcomes": dict(outcomes), "by_url": by_url, "slowest_s": round(max(took for *_, took in results), 2)}


COMMANDS = {"publish": publish, "submit": submit_all, "wait": wait_for_consolidations, "ask": ask}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
