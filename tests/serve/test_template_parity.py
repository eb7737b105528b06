"""What is trained is what is served, asked from running engines: ``return_token_ids`` over real chat templates.

``pytest -s -m bench tests/serve/test_template_parity.py``
"""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.platform.domain.names import InstanceName
from looper.platform.tenancy import issue_key
from tests.basemodel.histories import make_history
from tests.basemodel.prompts import asked_prompts, learned_prompts
from tests.basemodel.test_parity import MAX_LENGTH, TEACHABLE
from tests.serve.live import run_server
from tests.serve.marks import single_token_adapter
from tests.serve.published import publish_version
from tests.template_bases import prepared_base

INSTANCE = InstanceName("acme", "desk")
HISTORIES = 200
MAX_MODEL_LEN = 2**15


@pytest.mark.bench
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TEACHABLE)
def test_trained_prompts_are_those_that_the_engine_was_asked(name: str, ray_local: None, tmp_path: Path) -> None:
    folder = prepared_base(tmp_path, name)
    encoder = ExampleEncoder.open(folder, MAX_LENGTH)
    learned, refused = 0, Counter[str]()
    with run_server(tmp_path / "run", base=folder, gateways=1, max_model_len=MAX_MODEL_LEN) as server:
        adapter = single_token_adapter(folder, INSTANCE, 0, rank=8)
        publish_version(server.catalog, server.store, INSTANCE, adapter)
        headers = {"authorization": f"Bearer {issue_key(server.catalog, 'acme')}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:

            def ask(body: dict[str, Any]) -> list[int] | None:
                for tool in body.get("tools", ()):
                    tool.pop("extra", None)  # the gateway refuses it, and vLLM leaves it out
                asked = {"model": str(INSTANCE), "max_tokens": 1, "return_token_ids": True, **body}
                response = client.post("/v1/chat/completions", json=asked)
                if response.status_code == 400:
                    refused[response.json()["error"]["message"][:60]] += 1
                    return None
                assert response.status_code == 200, response.text
                return list(response.json()["prompt_token_ids"])

            for seed in range(HISTORIES):
                example = make_history(seed)
                trained = learned_prompts(encoder.encode(example))
                assert trained <= asked_prompts(ask, encoder, example), (seed, refused)
                learned += trained.total()
    print(f"{name}: {learned} turns learned, 0 differences; refused: {dict(refused)}")
    assert learned > 0
