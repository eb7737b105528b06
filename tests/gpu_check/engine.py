"""An engine whose adapters are paged and promoted under load: each answer is that of the version that it names."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from transformers import AutoTokenizer

from looper.platform.domain.names import InstanceName
from tests.gpu_check.result import Notify, PartResult
from tests.serve.live import LiveServer, run_server, send_chat
from tests.serve.marks import distinct_tokens

TENANT = "gpu-check"
TOKENS = 8


def check_engine(folder: Path, notify: Notify, seconds: float = 45, agents: int = 16, clients: int = 8) -> PartResult:
    """Start a server, and load it."""
    from tests.ray_local import run_ray

    notify("starting Ray, an engine and its gateways")
    with run_ray(), run_server(folder) as server:
        return load_engine(server, notify, seconds, agents, clients)


def load_engine(server: LiveServer, notify: Notify, seconds: float, agents: int, clients: int) -> PartResult:
    """Ask skills at random, more than the engine has slots or its disk cache has places, while versions change.

    Args:
        server: The server.
        notify: Tells the progress.
        seconds: How long.
        agents: Number of skills.
        clients: Number of requests at once.
    """
    result, client = PartResult(), server.tenant(TENANT)
    names = [InstanceName(TENANT, f"agent-{number}") for number in range(agents)]
    expected: dict[str, str] = {}

    def publish(number: int, mark: int) -> str:
        digest = server.publish(names[number], mark)
        expected[digest] = _text(server.base, mark)
        return digest

    current = {number: publish(number, number) for number in range(agents)}
    asked: list[tuple[str, str, float]] = []
    over = Event()

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        while not over.is_set():
            started = time.perf_counter()
            try:
                text, digest = send_chat(client, str(rng.choice(names)), max_tokens=TOKENS)
            except Exception as error:  # what a client sees is what is checked
                result.errors.append(f"a request failed: {type(error).__name__}: {error}".splitlines()[0][:300])
                return
            asked.append((text, digest, time.perf_counter() - started))

    notify(f"{agents} skills over {server.settings.serve.max_loras} slots, {clients} clients")
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(ask, seed) for seed in range(clients)]
        mark, deadline = agents, time.monotonic() + seconds
        while time.monotonic() < deadline and not all(each.done() for each in running):
            number = mark % agents
            current[number] = publish(number, mark)
            mark += 1
            over.wait(seconds / (2 * agents))
        over.set()
    for number, digest in current.items():
        answer = send_chat(client, str(names[number]), max_tokens=TOKENS)
        if answer != (expected[digest], digest):
            result.errors.append(f"{names[number]} answers {answer} after {digest} was promoted")
    wrong = [f"{digest} answered {text!r}" for text, digest, _ in asked if text != expected[digest]]
    result.errors += wrong[:5]
    times = sorted(each for *_, each in asked)
    result.figures = {
        "answers": len(asked),
        "wrong": len(wrong),
        "promotions": mark - agents,
        "median_s": round(times[len(times) // 2], 3) if times else None,
        "slowest_s": round(times[-1], 3) if times else None,
    }
    return result


def _text(base: Path, mark: int) -> str:
    tokens = distinct_tokens(base)
    text: str = AutoTokenizer.from_pretrained(base).decode([tokens[mark % len(tokens)]] * TOKENS)
    return text
