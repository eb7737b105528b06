"""What is trained is what is served: prompts are, token for token, those of the engine's own renderer."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vllm.config import VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.hf import HfRenderer
from vllm.renderers.online_renderer import OnlineRenderer

from looper.basemodel.chat_renderer import ChatRenderer
from looper.basemodel.parser_choice import choose_parsers
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Window
from looper.platform.domain.example import Example
from tests.basemodel.histories import make_history
from tests.template_bases import template_base, template_names

HISTORIES = [20, pytest.param(200, marks=pytest.mark.bench)]

MAX_LENGTH = 2**19
"""No history is as long."""


class EngineRenderer:
    """Renders requests as vLLM's OpenAI server does, in a process of its own in production."""

    def __init__(self, renderer: ChatRenderer) -> None:
        hf = HfRenderer(VllmConfig(model_config=renderer.model_config), renderer.tokenizer)
        self._online = OnlineRenderer(
            renderer.model_config, hf, request_logger=None, chat_template=None, chat_template_content_format="auto"
        )

    def render(self, body: dict[str, Any]) -> list[int] | None:
        """Return the tokens of the prompt; None, if the request is refused."""
        request = ChatCompletionRequest.model_validate({"model": "m", **body})
        request.tool_choice = "none"  # the renderer has no parser
        try:
            _, (prompt,) = asyncio.run(self._online.render_chat(request))
        except ValueError:
            return None
        return list(prompt["prompt_token_ids"])


def learned_prompts(windows: list[Window]) -> Counter[tuple[int, ...]]:
    """Return what comes before each learned turn."""
    found: Counter[tuple[int, ...]] = Counter()
    for window in windows:
        learned = [place in set(window.target_places.tolist()) for place in range(len(window))]
        starts = [place for place in range(1, len(window)) if learned[place] and not learned[place - 1]]
        found.update(tuple(window.tokens[:place].tolist()) for place in starts)
    return found


def asked_prompts(engine: EngineRenderer, encoder: ExampleEncoder, example: Example) -> Counter[tuple[int, ...]]:
    """Return what the engine would be asked before each turn of the agent."""
    messages = [encoder._message(turn) for turn in example.turns]
    found: Counter[tuple[int, ...]] = Counter()
    for index, turn in enumerate(example.turns):
        if turn.weight:
            body: dict[str, Any] = {"messages": messages[:index]}
            if example.tools:
                body["tools"] = json.loads(example.tools)
            prompt = engine.render(body)
            if prompt is not None:
                found[tuple(prompt)] += 1
    return found


@pytest.mark.parametrize("name", [name for name in template_names() if "gpt-oss" not in name])
@pytest.mark.parametrize("histories", HISTORIES)
def test_trained_prompts_are_those_of_the_engine(name: str, histories: int, tmp_path: Path) -> None:
    renderer = ChatRenderer(template_base(tmp_path / name, name))
    encoder = ExampleEncoder(renderer, choose_parsers(renderer), MAX_LENGTH)
    engine = EngineRenderer(renderer)
    learned = 0
    for seed in range(histories):
        example = make_history(seed)
        trained = learned_prompts(encoder.encode(example))
        assert trained <= asked_prompts(engine, encoder, example), f"history {seed}"
        learned += trained.total()
    assert learned > 0
