"""A trained skill at work: all held-out tasks at once, turn by turn, each in its own simulated work place.

Greedy, and each answer is read as the served skill's is: what stands between the marks of a tool call is one, if it is
JSON. Attention's keys and values are kept from turn to turn, so that no token goes through the model twice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerBase

from looper.gym.episode import EpisodeResult, Message, episode
from looper.gym.workplace import WorkplaceTask
from looper.jobs.consolidation.adapters.lora import Lora

ANSWER_TOKENS = 64
"""More than any turn of an expert takes; who rambles is cut here."""

_CALL = regex.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", regex.DOTALL)


@dataclass(frozen=True)
class LiveResult:
    """How held-out tasks went."""

    episodes: int
    solved: int
    """Ended by the agent, in time, with the world as the task wants it."""
    looped: int
    """In which the same call was made twice in a row, with the same arguments, and was answered the same."""
    turns: int
    right_turns: int
    """Of the turns, those that were what the house asked for at that point."""


@torch.no_grad()
def live(
    folder: Path, lora: Lora | None, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[WorkplaceTask]
) -> LiveResult:
    """Let the base model of ``folder`` with the adapter do ``tasks``, which are all of one work place."""
    speaker = Speaker(folder, lora, tokenizer, len(tasks))
    tools = tasks[0].tools()
    at_work = [episode(task) for task in tasks]
    messages = [next(each) for each in at_work]
    news = [_rendered(tokenizer, each, tools) for each in messages]
    ended: list[EpisodeResult] = []
    while at_work:
        kept = []
        for row, said in enumerate(
            speaker.answer([tokenizer(new, add_special_tokens=False)["input_ids"] for new in news])
        ):
            answer = read_answer(said.removesuffix(tokenizer.eos_token), len(messages[row]))
            before = _rendered(tokenizer, [*messages[row], answer], tools, prompt=False)
            try:
                messages[row] = at_work[row].send(answer)
            except StopIteration as stopped:
                ended.append(stopped.value)
                continue
            # The answer stays as it was written; what comes after its end is new.
            rest = _rendered(tokenizer, messages[row], tools)[before.rindex(tokenizer.eos_token) :]
            news[row] = rest.removeprefix(tokenizer.eos_token) if said.endswith(tokenizer.eos_token) else rest
            kept.append(row)
        speaker.keep(kept)
        at_work, messages, news = ([some[row] for row in kept] for some in (at_work, messages, news))  # type: ignore[assignment]
    turns = [turn for each in ended for turn in each.turns]
    return LiveResult(
        episodes=len(ended),
        solved=sum(each.success for each in ended),
        looped=sum(loops(each.messages) for each in ended),
        turns=len(turns),
        right_turns=sum(turn.correct for turn in turns),
    )


def loops(messages: Sequence[Message]) -> bool:
    """Whether the same was called twice in a row, and the same came back."""
    done: list[tuple[Any, list[str]]] = []
    for message in messages:
        if message["role"] == "assistant":
            functions = [call["function"] for call in message.get("tool_calls", ())]
            done.append(([(each["name"], _object(each["arguments"])) for each in functions], []))
        elif message["role"] == "tool":
            done[-1][1].append(message["content"])
    return any(one[0] and one == other for one, other in pairwise(done))


def read_answer(text: str, number: int) -> Message:
    """The message that ``text`` is; ids of its calls are made of ``number``."""
    calls: list[dict[str, Any]] = []
    for found in _CALL.finditer(text):
        call = _object(found[1])
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
            return {"role": "assistant", "content": text}
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        calls.append({"id": f"call_{number}_{len(calls)}", "type": "function", "function": function})
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": _CALL.split(text, maxsplit=1)[0].strip(), "tool_calls": calls}


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Message], *, prompt: bool = True
) -> str:
    return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt))


class Speaker:
    """The model with its adapter, in several conversations: the rows of one batch."""

    def __init__(self, folder: Path, lora: Lora | None, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for name, factors in (lora or {}).items():
            layer = self._model.get_submodule(name)
            layer.weight += factors.update().to(layer.weight)
        self._end: int = tokenizer.eos_token_id
        self._tokenizer = tokenizer
        self._cache = DynamicCache(config=self._model.config)
        self._seen = torch.zeros(rows, 0, dtype=torch.long)  # 1 for a token, 0 for a gap

    def answer(self, news: Sequence[Sequence[int]]) -> list[str]:
        """What each row says after ``news``, up to and including the end of its turn."""
        longest = max(map(len, news))
        gaps = [longest - len(each) for each in news]
        tokens = torch.tensor([[*each, *[self._end] * gap] for gap, each in zip(gaps, news, strict=True)])
        real = torch.tensor([[1] * len(each) + [0] * gap for gap, each in zip(gaps, news, strict=True)])
        said: list[list[int]] = [[] for _ in news]
        likeliest, speaking = self._hear(tokens, real), torch.ones(len(news), dtype=torch.bool)
        for _ in range(ANSWER_TOKENS):
            for row in speaking.nonzero().flatten().tolist():
                said[row].append(int(likeliest[row]))
            tokens, real = likeliest[:, None], speaking.long()[:, None]
            speaking = speaking & (likeliest != self._end)
            likeliest = self._hear(tokens, real)  # the end of a turn, too
            if not speaking.any():
                break
        return [self._tokenizer.decode(each) for each in said]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        chosen = torch.tensor(rows, dtype=torch.long)
        self._cache.batch_select_indices(chosen)
        self._seen = self._seen[chosen]

    def _hear(self, tokens: Tensor, real: Tensor) -> Tensor:
        """The likeliest token after the last of ``tokens [R, T]`` that is ``real``, of each row."""
        self._seen = torch.cat([self._seen, real], dim=1)
        hidden = self._model.base_model(
            input_ids=tokens,
            attention_mask=self._seen,
            position_ids=(self._seen.cumsum(1) - 1)[:, -tokens.shape[1] :].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        last = hidden[torch.arange(len(tokens)), (real.sum(1) - 1).clamp(min=0)]
        likeliest: Tensor = self._model.get_output_embeddings()(last).argmax(-1)
        return likeliest
