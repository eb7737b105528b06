"""Real architectures with random weights: what an engine serves is what was trained, adapter included.

``pytest -s -m bench tests/serve/test_architectures.py`` writes the figures of ``docs/bases.md``; that page is made by
``python -m tests.docs.bases_page``.
"""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx
import pytest
import torch

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.tenancy import issue_key
from tests.architectures import ARCHITECTURES, SLIDING_WINDOW, architecture_base
from tests.docs.bases_page import SERVED
from tests.serve.live import run_server
from tests.serve.published import adapter_files, publish_version
from tests.tiny import FLOAT32

INSTANCE = InstanceName("acme", "desk")
TOKENS = 3 * SLIDING_WINDOW
TOLERANCE = 0.02
"""Largest difference of a token's log probability, in nats. Engines multiply adapters in bfloat16."""


def make_adapter(base: SharedBase) -> Lora:
    lora = base.init_adapter(Recipe(rank=8, alpha=8))
    for factors in lora.values():
        torch.nn.init.normal_(factors.b, std=0.1)
    return lora


@torch.no_grad()
def trained_logprobs(base: SharedBase, window: Window, lora: Lora | None) -> list[float]:
    return (-base.losses(base.pack([[window]]), [] if lora is None else [lora])).tolist()


def served_logprobs(url: str, key: str, window: Window) -> list[float]:
    body = {"model": str(INSTANCE), "prompt": window.tokens.tolist(), "max_tokens": 1, "prompt_logprobs": 0}
    response = httpx.post(f"{url}/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=120)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    found = choice["prompt_logprobs"][1:]
    return [each[str(token)]["logprob"] for each, token in zip(found, window.tokens[1:].tolist(), strict=True)]


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_served_is_what_was_trained(name: str, ray_local: None, tmp_path: Path) -> None:
    folder = architecture_base(tmp_path / "base", name)
    base, rng = SharedBase(folder, FLOAT32), Random(0)
    tokens = [rng.randrange(3, 250) for _ in range(TOKENS)]
    window = Window.of(tokens, (0.0, *[1.0] * (TOKENS - 1)), ())
    lora = make_adapter(base)
    files = adapter_files(folder, INSTANCE, adapter_file.serialize_weights(lora))
    files = replace(files, config=adapter_file.serialize_config(lora, "tiny"))
    with run_server(tmp_path / "run", base=folder, gateways=1) as server:
        publish_version(server.catalog, server.store, INSTANCE, files)
        served = served_logprobs(server.url, issue_key(server.catalog, "acme"), window)
    trained, plain = trained_logprobs(base, window, lora), trained_logprobs(base, window, None)
    difference = max(abs(a - b) for a, b in zip(served, trained, strict=True))
    effect = max(abs(a - b) for a, b in zip(plain, trained, strict=True))
    print(f"{name}: {difference:.4f} nats, the adapter changes up to {effect:.2f}")
    assert effect > 10 * difference, "the adapter changes too little for a comparison"
    assert difference < TOLERANCE
    figures = json.loads(SERVED.read_text()) if SERVED.exists() else {}
    SERVED.write_text(json.dumps(figures | {name: round(difference, 4)}, indent=1, sort_keys=True) + "\n")
