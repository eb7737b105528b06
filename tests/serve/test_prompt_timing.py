"""The time of a response does not tell whether another tenant has sent the same prompt before.

The prefix cache makes a prompt faster that was read before. ``cache_salt`` keeps each tenant's part of it apart.
"""

import random
import time
from collections.abc import Callable

import httpx
import pytest
from scipy.stats import wilcoxon

from tests.serve.live import LiveServer

PROMPT_TOKENS = 300
"""Length of a prompt. Reading so many tokens takes several times as long as finding them in the prefix cache."""

Send = Callable[[list[int]], float]
"""Sends a prompt; returns the seconds until the response."""


def sender(live: LiveServer, tenant: str) -> Send:
    key = live.tenant(tenant).api_key
    client = httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def send(prompt: list[int]) -> float:
        started_s = time.perf_counter()
        response = client.post("/v1/completions", json={"model": "tiny", "prompt": prompt, "max_tokens": 1})
        assert response.status_code == 200, response.text
        return time.perf_counter() - started_s

    return send


def measure_pairs(victim: Send, spy: Send, pairs: int) -> tuple[float, float]:
    """Return the p-value that prompts of ``victim`` take ``spy`` as long as others, and the median difference in s."""
    rng, differences = random.Random(0), []
    for _ in range(pairs):
        sent, unsent = ([rng.randrange(10, 300) for _ in range(PROMPT_TOKENS)] for _ in range(2))
        victim(sent)
        if rng.random() < 0.5:
            known_s = spy(sent)
            differences.append(known_s - spy(unsent))
        else:
            unknown_s = spy(unsent)
            differences.append(spy(sent) - unknown_s)
    return float(wilcoxon(differences).pvalue), sorted(differences)[pairs // 2]


@pytest.mark.bench
@pytest.mark.timeout(7200)
def test_ten_thousand_pairs_tell_nothing_about_prompts_of_another_tenant(live: LiveServer) -> None:
    victim, spy = sender(live, "victim"), sender(live, "spy")
    p_value, difference_s = measure_pairs(spy, spy, 200)
    print(f"own prompts: p = {p_value:.2g}, median difference {1000 * difference_s:.3f} ms")
    assert p_value < 1e-6, "a prompt of the same tenant is faster, so this test would notice"
    p_value, difference_s = measure_pairs(victim, spy, 10_000)
    print(f"prompts of another tenant: p = {p_value:.2g}, median difference {1000 * difference_s:.3f} ms")
    assert p_value > 0.01
