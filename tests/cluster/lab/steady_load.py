"""A steady load by name on a Looper whose address may change meanwhile, as behind a load balancer.

``python -m tests.cluster.lab.steady_load THREADS``: each request goes to the URL that is in the file ``target`` when
it begins, half of them as streams. Each thread writes the URL of its latest request into a file ``at-THREAD``. It goes
on until the file ``stop`` exists, and prints one line of JSON.
"""

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.cluster.lab.drive import MARK_TOKENS, SKILLS

TARGET, STOP = Path("target"), Path("stop")
PAUSE_S = 0.2
"""Pause of a thread between two requests, in seconds: clusters that come up meanwhile share the cores."""


def ask(http: httpx.Client, url: str, name: str, key: str, texts: dict[str, str], *, stream: bool) -> str:
    """Send one request, and return "right" or what was wrong."""
    tokens = 24 if stream else MARK_TOKENS
    body = {"model": name, "prompt": "Please book", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    try:
        with http.stream("POST", f"{url}/v1/completions", json=body | {"stream": stream}, headers=headers) as response:
            content = response.read().decode()
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    if response.status_code != 200:
        return f"{response.status_code} {content[:200]}"
    if stream:
        lines = [line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")]
        if lines[-1] != "[DONE]" or "error" in content:
            return f"broken stream: {content[-200:]}"
        text = "".join(choice["text"] for line in lines[:-1] for choice in json.loads(line)["choices"])
    else:
        text = json.loads(content)["choices"][0]["text"]
    expected = texts.get(response.headers["x-looper-version"], "unknown version")
    return "right" if text == tokens * expected else f"wrong: {text}"


def work(number: int, skills: dict[str, dict[str, str]]) -> list[tuple[str, str, float, float]]:
    """Send requests one after another. Return the URL, the outcome, the time and the seconds of each."""
    results, names, at_file = [], sorted(skills), Path(f"at-{number}")
    with httpx.Client(timeout=300) as http:
        while not STOP.exists():
            number += 1
            url, began, at = TARGET.read_text().strip(), time.monotonic(), time.time()
            at_file.write_text(url)
            name = names[number % len(names)]
            skill = skills[name]
            outcome = ask(http, url, name, skill["key"], skill["texts"], stream=bool(number % 2))  # type: ignore[arg-type]
            results.append((url, outcome, at, time.monotonic() - began))
            time.sleep(PAUSE_S)
    return results


def main(threads: int) -> None:
    """Load until told to stop, and print what became of the requests."""
    skills = json.loads(SKILLS.read_text())
    with ThreadPoolExecutor(threads) as pool:
        results = [each for found in pool.map(lambda number: work(number, skills), range(threads)) for each in found]
    failed = [(url, outcome, round(at, 1)) for url, outcome, at, _ in results if outcome != "right"]
    slowest = sorted((round(took, 1), round(at, 1), url) for url, _, at, took in results)[-5:]
    by_url = Counter(f"{url} {'right' if outcome == 'right' else 'failed'}" for url, outcome, *_ in results)
    print(json.dumps({"requests": len(results), "failed": failed[:20], "num_failed": len(failed),
                      "by_url": by_url, "slowest": slowest}))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
