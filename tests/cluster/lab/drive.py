"""What a lab's tests do as tenants, on a node: publish marked skills, submit consolidations, and ask.

``python -m tests.cluster.lab.drive publish|submit|ask|...``: each prints one line of JSON.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoTokenizer

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.trajectory import Trajectory
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.traffic_split import conversation_key, pick_target
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


def publish_newer(base: str, name: str) -> dict[str, Any]:
    """Publish another marked version of a skill; return the digests of the version before and of the new one."""
    settings = load_settings()
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    tokenizer, tokens = AutoTokenizer.from_pretrained(base), distinct_tokens(Path(base))
    skills, instance = json.loads(SKILLS.read_text()), InstanceName.parse(name)
    [older] = skills[name]["texts"]
    token = tokens[len(skills)]
    newer = publish_version(catalog, store, instance, single_token_adapter(Path(base), instance, token))
    skills[name]["texts"][newer] = tokenizer.decode([token])
    SKILLS.write_text(json.dumps(skills))
    return {"older": older, "newer": newer}


def write_logs() -> dict[str, Any]:
    """Write the chats of one new instance of each tenant into files; return the instances and the paths."""
    files = {}
    for number, tenant in enumerate(TENANTS):
        lines = [to_chat(episode(task, room=f"room-{number}")) for task in range(12)]
        path = Path(f"{tenant}.jsonl").absolute()
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files[f"{tenant}/desk"] = str(path)
    return files


def to_chat(trajectory: Trajectory) -> dict[str, Any]:
    """Return an episode as OpenAI's messages."""
    messages: list[dict[str, Any]] = []
    for step in trajectory.steps:
        message: dict[str, Any] = {"role": "assistant" if step.source == "agent" else step.source}
        message["content"] = step.content
        if step.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in step.tool_calls
            ]
        if step.call_id:
            message["tool_call_id"] = step.call_id
        messages.append(message)
    return {
        "messages": messages,
        "tools": json.loads(trajectory.tools or "[]"),
        "task_id": trajectory.task_id,
        "success": trajectory.outcome.success,
    }


def submit_all(base: str, count: str, epochs: str = str(RECIPE.epochs), prefix: str = "") -> dict[str, Any]:
    """Queue consolidations of one new instance each, of all tenants in turns."""
    settings = load_settings()
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    ids = []
    for number in range(int(count)):
        name = f"{TENANTS[number % len(TENANTS)]}/trained-{prefix}{number}"
        batch = [episode(task, room=f"room-{number}") for task in range(12)]
        recipe = RECIPE.model_copy(update={"epochs": int(epochs)})
        ids.append(submit(catalog, store, name, batch, base=base, id=f"b{prefix}{number}", recipe=recipe).id)
    return {"ids": ids}


def wait_for_consolidations(seconds: str, *ids: str) -> dict[str, Any]:
    """Wait until all consolidations have ended.

    Returns:
        How many are in which state, and for some of them the seconds from the first submission to the last end, or
        None if one has not ended.
    """
    catalog, deadline = Catalog.open(load_settings()), time.monotonic() + float(seconds)
    while catalog.list_unfinished() and time.monotonic() < deadline:
        time.sleep(0.5)
    counts = {str(state): count for state, count in catalog.count_consolidations().items()}
    jobs = [catalog.get_consolidation(id) for id in ids]
    ends = [job.ended_at for job in jobs if job.ended_at is not None]
    took_s = (max(ends) - min(job.created_at for job in jobs)).total_seconds() if len(ends) == len(jobs) > 0 else None
    return {"states": counts, "took_s": took_s}


def count_trained() -> dict[str, Any]:
    """Count the consolidations of ``submit_all`` by state, and instances whose versions are not those published."""
    catalog, unlike, states = Catalog.open(load_settings()), 0, Counter[str]()
    for name in catalog.list_instances():
        if name.instance.startswith("trained-"):
            jobs = catalog.list_consolidations(instance=name)
            states.update(str(job.state) for job in jobs)
            published = [job.digest for job in jobs if job.digest]
            unlike += [version.digest for version in catalog.list_versions(name)] != published
    return {"states": states, "unlike": unlike}


def await_steps(seconds: str, *ids: str) -> dict[str, Any]:
    """Wait until one of some consolidations has been trained for a step; return how many steps it has then."""
    catalog, deadline = Catalog.open(load_settings()), time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        for job in catalog.get_consolidations(ids):
            if job.progress is not None and job.progress.step > 0:
                return {"steps": job.progress.step}
        time.sleep(0.2)
    return {"steps": 0}


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


def ask_canary(name: str, conversations: str, *urls: str) -> dict[str, Any]:
    """Ask a skill with a canary in many conversations, at each URL.

    Returns:
        How many answers came from which version, and how many from another version than ``pick_target`` says, or
        without its mark.
    """
    skill, model = json.loads(SKILLS.read_text())[name], ModelName.parse(name)
    targets = Catalog.open(load_settings()).resolve_targets(model)
    versions: Counter[str] = Counter()
    wrong = 0
    with httpx.Client(timeout=120, headers={"authorization": f"Bearer {skill['key']}"}) as http:
        for number in range(int(conversations)):
            body = {"model": name, "prompt": f"Book {number}", "max_tokens": 1, "temperature": 0, "ignore_eos": True}
            expected = pick_target(model.instance, conversation_key(None, body), targets).digest
            for url in urls:
                response = http.post(f"{url}/v1/completions", json=body).raise_for_status()
                digest, text = response.headers["x-looper-version"], response.json()["choices"][0]["text"]
                versions[digest] += 1
                wrong += digest != expected or text != skill["texts"][digest]
    return {"versions": dict(versions), "wrong": wrong}


def flood(name: str, count: str, *urls: str) -> dict[str, Any]:
    """Send requests to all URLs in turns, one after another; return how many had which status, and the seconds."""
    skill = json.loads(SKILLS.read_text())[name]
    began = time.monotonic()
    body = {"model": name, "prompt": "Book", "max_tokens": 1, "temperature": 0}
    statuses: Counter[str] = Counter()
    with httpx.Client(timeout=120, headers={"authorization": f"Bearer {skill['key']}"}) as http:
        for number in range(int(count)):
            response = http.post(f"{urls[number % len(urls)]}/v1/completions", json=body)
            assert response.status_code != 429 or int(response.headers["retry-after"]) > 0
            statuses[str(response.status_code)] += 1
    return {"statuses": dict(statuses), "seconds": round(time.monotonic() - began, 2)}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "publish": publish,
    "publish-newer": publish_newer,
    "logs": write_logs,
    "submit": submit_all,
    "await-steps": await_steps,
    "wait": wait_for_consolidations,
    "count-trained": count_trained,
    "ask": ask,
    "canary": ask_canary,
    "flood": flood,
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
