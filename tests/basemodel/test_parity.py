"""What is trained is what is served: prompts are, token for token, those of the engine's own renderer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from vllm.config import VllmConfig
from vllm.renderers.hf import HfRenderer
from vllm.renderers.online_renderer import OnlineRenderer

from looper.basemodel.chat_renderer import ChatRenderer
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.serve.engine.vllm_requests import build_vllm_request
from looper.serve.requests.checks import RequestLimits
from looper.serve.requests.parser import parse_request
from tests.basemodel.histories import make_history
from tests.basemodel.prompts import asked_prompts, learned_prompts
from tests.template_bases import prepared_base, template_names

HISTORIES = [20, pytest.param(200, marks=pytest.mark.bench)]

TEACHABLE = [name for name in template_names() if "gpt-oss" not in name]

MAX_LENGTH = 2**19
"""No history is as long."""


NO_LIMITS = RequestLimits(max_sequences=1, max_tokens=MAX_LENGTH)


class EngineRenderer:
    """Renders requests as the gateway and the skill server do, in processes of their own in production."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._vocab_size = renderer.vocab_size
        hf = HfRenderer(VllmConfig(model_config=renderer.model_config), renderer.tokenizer)
        self._online = OnlineRenderer(
            renderer.model_config, hf, request_logger=None, chat_template=None, chat_template_content_format="auto"
        )

    def render(self, body: dict[str, Any]) -> list[int] | None:
        """Return the tokens of the prompt; None, if the request is refused."""
        for tool in body.get("tools", ()):
            tool.pop("extra", None)  # the gateway refuses it, and vLLM leaves it out
        parsed = parse_request("chat", json.dumps({"model": "m", **body}).encode(), NO_LIMITS)
        request = build_vllm_request("chat", {"model": "m", **parsed.body}, self._vocab_size)
        request.tool_choice = "none"  # the renderer has no parser
        try:
            _, (prompt,) = asyncio.run(self._online.render_chat(request))
        except ValueError:
            return None
        return list(prompt["prompt_token_ids"])


@pytest.mark.parametrize("name", TEACHABLE)
@pytest.mark.parametrize("histories", HISTORIES)
def test_trained_prompts_are_those_of_the_engines_renderer(name: str, histories: int, tmp_path: Path) -> None:
    folder = prepared_base(tmp_path, name)
    encoder = ExampleEncoder.open(folder, MAX_LENGTH)
    engine = EngineRenderer(ChatRenderer(folder))
    learned = 0
    for seed in range(histories):
        example = make_history(seed)
        trained = learned_prompts(encoder.encode(example))
        assert trained <= asked_prompts(engine.render, encoder, example), f"history {seed}"
        learned += trained.total()
    assert learned > 0
