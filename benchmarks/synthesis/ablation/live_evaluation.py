"""Evaluate a trained skill in the gym: all held-out tasks as one batch, turn by turn, each in its own simulation.

``bench.py`` calls it. Decoding is greedy. An answer is parsed as that of the served skill: the text between the marks
of a tool call is a call if it is JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch
from transformers import PreTrainedTokenizerBase

from looper.benchmarks.synthesis.ablation.batch_generator import BatchGenerator
from looper.gym.episode import EpisodeResult, Message, episode_steps
from looper.gym.workplace import WorkplaceTask
from looper.jobs.consolidation.adapters.lora import Lora

_CALL = regex.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", regex.DOTALL)


@dataclass(frozen=True)
class LiveResult:
    """Results of a skill on the held-out tasks."""

    episodes: int
    """Number of tasks."""
    solved: int
    """Tasks that the agent ended in time, with the workplace in the state that the task requires."""
    looped: int
    """Tasks in which one call was made twice in a row, with the same arguments and the same answer."""
    turns: int
    """Number of turns."""
    right_turns: int
    """Turns that were what the workplace's rules require at that point."""


@torch.no_grad()
def evaluate_live(
    folder: Path, lora: Lora | None, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[WorkplaceTask]
) -> LiveResult:
    """Let a skill do tasks of one workplace.

    Args:
        folder: Folder of the base model.
        lora: Adapter of the skill, or None for the base model alone.
        tokenizer: Tokenizer of the base model.
        tasks: The tasks.

    Returns:
        The results over all tasks.
    """
    generator = BatchGenerator(folder, lora, tokenizer, len(tasks))
    tools = tasks[0].tools()
    running = [episode_steps(task) for task in tasks]
    messages = [next(episode) for episode in running]
    new_texts = [_apply_chat_template(tokenizer, conversation, tools) for conversation in messages]
    finished: list[EpisodeResult] = []
    while running:
        kept = []
        new_tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in new_texts]
        for row, text in enumerate(generator.generate(new_tokens)):
            answer = parse_answer(text.removesuffix(tokenizer.eos_token), len(messages[row]))
            before = _apply_chat_template(tokenizer, [*messages[row], answer], tools, add_prompt=False)
            try:
                messages[row] = running[row].send(answer)
            except StopIteration as stopped:
                finished.append(stopped.value)
                continue
            # The cache has the answer as it was generated. Only the text after the end of the answer is new.
            rest = _apply_chat_template(tokenizer, messages[row], tools)[before.rindex(tokenizer.eos_token) :]
            new_texts[row] = rest.removeprefix(tokenizer.eos_token) if text.endswith(tokenizer.eos_token) else rest
            kept.append(row)
        generator.keep_rows(kept)
        running = [running[row] for row in kept]
        messages = [messages[row] for row in kept]
        new_texts = [new_texts[row] for row in kept]
    turns = [turn for episode in finished for turn in episode.turns]
    return LiveResult(
        episodes=len(finished),
        solved=sum(episode.success for episode in finished),
        looped=sum(has_repeated_call(episode.messages) for episode in finished),
        turns=len(turns),
        right_turns=sum(turn.correct for turn in turns),
    )


def has_repeated_call(messages: Sequence[Message]) -> bool:
    """Whether two turns in a row make the same calls and get the same answers.

    Args:
        messages: Messages of an episode, in OpenAI's format.
    """
    turns: list[tuple[Any, list[str]]] = []
    for message in messages:
        if message["role"] == "assistant":
            functions = [call["function"] for call in message.get("tool_calls", ())]
            turns.append(([(function["name"], _parse_json(function["arguments"])) for function in functions], []))
        elif message["role"] == "tool":
            turns[-1][1].append(message["content"])
    return any(turn[0] and turn == following for turn, following in pairwise(turns))


def parse_answer(text: str, number: int) -> Message:
    """Parse a generated answer.

    Args:
        text: The answer without the end-of-turn token.
        number: Number for the ids of the calls, which must differ between the answers of a conversation.

    Returns:
        A message with tool calls, or a message with the text if it has no call or a malformed one.
    """
    calls: list[dict[str, Any]] = []
    for match in _CALL.finditer(text):
        call = _parse_json(match[1])
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
            return {"role": "assistant", "content": text}
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        calls.append({"id": f"call_{number}_{len(calls)}", "type": "function", "function": function})
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": _CALL.split(text, maxsplit=1)[0].strip(), "tool_calls": calls}


def _parse_json(text: str) -> Any:
    """Return the parsed JSON, or the text if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _apply_chat_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Message], *, add_prompt: bool = True
) -> str:
    return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=add_prompt))
