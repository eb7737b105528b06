"""What agents on a base model can be taught, found by trying: ``looper doctor`` shows it.

Everything goes through the renderer and the parsers of the engine, as in synthesis and serving.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.basemodel.answer_reader import AnswerReader
from looper.basemodel.chat_renderer import ChatRenderer, Unrenderable
from looper.basemodel.prepare import CALLS_IN_TEXT, CHAT_TEMPLATE
from looper.basemodel.turn_renderer import TurnRenderer
from looper.platform.adapters.base_revision import BaseManifest, Parsers, read_base_manifest

_TOOL = {
    "type": "function",
    "function": {
        "name": "find_room",
        "description": "Find a room",
        "parameters": {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]},
    },
}


class Diagnosis(BaseModel):
    """What is known of a base model that can be taught."""

    model_config = ConfigDict(frozen=True)

    base: str
    """The base model as the settings name it."""
    architecture: str
    """Class of the model."""
    parameters: int
    """Number of its parameters."""
    adapted: dict[str, int]
    """Number of layers that adapters change, by the last part of their names."""
    adapted_share: float
    """Share of the parameters that are in these layers, from 0 to 1."""
    template: str
    """Whose chat template it has, in words."""
    roles: tuple[str, ...]
    """Roles whose messages reach the prompt beside those of users and tools: system, developer."""
    keeps_history: bool
    """Whether a longer history only appends. If not, each turn is trained with a prompt of its own."""
    parsers: Parsers
    """How its answers are read."""
    tool_calls: str
    """What becomes of tool calls, in words."""
    reasoning: str
    """What becomes of reasoning, in words."""


def diagnose(folder: Path) -> Diagnosis:
    """Try out a base model.

    Args:
        folder: Folder of the base model, as ``looper.basemodel.prepare`` returned it.

    Returns:
        What was found.
    """
    manifest, renderer = read_base_manifest(folder), ChatRenderer(folder)
    adapted: dict[str, int] = {}
    for name in manifest.layers:
        last = name.rpartition(".")[2]
        adapted[last] = adapted.get(last, 0) + 1
    return Diagnosis(
        base=manifest.base,
        architecture=", ".join(renderer.model_config.hf_config.architectures or ["unknown"]),
        parameters=manifest.parameters,
        adapted=dict(sorted(adapted.items())),
        adapted_share=_share_of_layers(manifest),
        template=_describe_template(renderer.template),
        roles=tuple(role for role in ("system", "developer") if renderer.shows(role)),
        keeps_history=_keeps_history(renderer),
        parsers=manifest.parsers,
        tool_calls=_try_tool_calls(renderer, manifest.parsers),
        reasoning=_try_reasoning(renderer, manifest.parsers),
    )


def _share_of_layers(manifest: BaseManifest) -> float:
    weights = sum(outputs * inputs for outputs, inputs in manifest.layers.values())
    return weights / manifest.parameters if manifest.parameters else 0.0


def _describe_template(template: str) -> str:
    if CALLS_IN_TEXT in template:
        return "its own, with tool calls in the text"
    return "Looper's" if template == CHAT_TEMPLATE else "its own"


def _keeps_history(renderer: ChatRenderer) -> bool:
    turns = TurnRenderer(renderer)
    said = [("user", "Hi."), ("assistant", "Hello."), ("user", "Bye."), ("assistant", "See you.")]
    conversation = renderer.parse([{"role": role, "content": text} for role, text in said], json.dumps([_TOOL]))
    messages = conversation.messages
    first = turns.render(conversation, messages[:1], messages[1])
    second = turns.render(conversation, messages[:3], messages[3])
    begun = first.prompt.tokens + first.answer
    return second.prompt.tokens[: len(begun)] == begun


def _try_tool_calls(renderer: ChatRenderer, parsers: Parsers) -> str:
    """Render two calls in a row, each with its result, and read them back."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "A blue or red room?"}]
    for number, color in enumerate(("blue", "red")):
        call = {"name": "find_room", "arguments": json.dumps({"color": color})}
        call_id = f"call0000{number}"  # Mistral's templates want nine characters
        calls = [{"id": call_id, "type": "function", "function": call}]
        messages += [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": call_id, "content": f"{color}: free"},
        ]
    messages.append({"role": "assistant", "content": "Both."})
    turns = TurnRenderer(renderer)
    try:
        conversation = renderer.parse(messages, json.dumps([_TOOL]))
        rendered = [turns.render(conversation, conversation.messages[:at], conversation.messages[at]) for at in (1, 3)]
    except Unrenderable as error:
        return f"none: {error}"
    if not all(turn.calls for turn in rendered):
        return "none: the chat template writes no calls"
    if not parsers.tool_call_parser:
        return "none: no parser of vLLM reads what the chat template writes"
    reader = AnswerReader(renderer, parsers)
    for turn, color in zip(rendered, ("blue", "red"), strict=True):
        if reader.read(conversation, turn.answer, []).calls != [("find_room", {"color": color})]:
            return f"none: vLLM's parser {parsers.tool_call_parser} reads other calls than the chat template writes"
    several = "several in a turn" if parsers.parallel_calls else "one in a turn"
    return f"yes, {several}"


def _try_reasoning(renderer: ChatRenderer, parsers: Parsers) -> str:
    if parsers.reasoning_parser:
        return f"learned, read by {parsers.reasoning_parser}"
    turn: Sequence[dict[str, Any]] = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello.", "reasoning": "They greet."},
    ]
    try:
        conversation = renderer.parse(turn, None)
        rendered = TurnRenderer(renderer).render(conversation, conversation.messages[:1], conversation.messages[1])
    except Unrenderable as error:
        return f"left out: {error}"
    if rendered.reasoning == (0, 0):
        return "left out: the chat template writes none"
    return "left out: no parser of vLLM reads it"
