"""Renders one turn of an agent: the prompt that the engine would be asked, and the answer that it would have to give.

No template is treated in a special way. The answer is what the rendering with the turn has beyond the prompt, up to and
including the token that ends a response.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from looper.basemodel.chat_renderer import (
    ChatRenderer,
    Conversation,
    TokenizedText,
    Unrenderable,
    common_prefix_length,
)

_OPEN_REASONING = re.compile(r"<(\w+)>\s*\Z")
_EMPTY_REASONING = re.compile(r"<(\w+)>\s*</\1>\s*\Z")

Span = tuple[int, int]
"""A half-open span."""


@dataclass(frozen=True)
class RenderedTurn:
    """One turn: P tokens of the prompt and A tokens of the answer."""

    prompt: TokenizedText
    """The prompt, ``[P]``."""
    answer: list[int]
    """Token ids of the answer, ``[A]``. The last one ends the response."""
    calls: list[Span]
    """Spans of the tool calls, in tokens of the answer."""
    reasoning: Span
    """Span of the reasoning, in tokens of the answer. Empty, if there is none."""


class TurnRenderer:
    """Renders turns of conversations with one base model."""

    def __init__(self, renderer: ChatRenderer) -> None:
        """Prepare.

        Args:
            renderer: Renderer of the base model.
        """
        self._renderer = renderer
        self._stop_texts = [renderer.tokenizer.decode([token]) for token in sorted(renderer.stop_tokens)]
        self._following_stops: dict[bool, str] = {}

    def render(
        self,
        conversation: Conversation,
        history: Sequence[dict[str, Any]],
        turn: dict[str, Any],
        known: TokenizedText | None = None,
    ) -> RenderedTurn:
        """Render a turn.

        Args:
            conversation: Gives the tools.
            history: The messages before the turn.
            turn: The agent's message.
            known: A prompt that may begin as this one does.

        Returns:
            The turn.

        Raises:
            Unrenderable: If the template refuses it, or writes no answer that the engine would end, or a token that the
                base model has no embedding for.
        """
        text = self._renderer.render(conversation, history, prompt=True)
        prompt = self._renderer.tokenize(text, known)
        answer = self._render_answer(conversation, history, turn, text)
        joint = self._renderer.tokenize(text + answer, prompt)
        if joint.tokens[: len(prompt.tokens)] != prompt.tokens:
            # The prompt ends within a token of the joint text. Generation continues the tokens of the prompt.
            alone = self._renderer.tokenize(answer)
            joint = TokenizedText(
                joint.text, prompt.tokens + alone.tokens, prompt.ends + [len(text) + end for end in alone.ends]
            )
        size = self._find_end(joint, len(prompt.tokens))
        if max(joint.tokens[:size]) >= self._renderer.vocab_size:
            raise Unrenderable("it has a token that the base model has no embedding for")
        spans = [_shift(span, len(text)) for span in self._find_calls(conversation, history, turn, answer)]
        reasoning = turn.get("reasoning") or ""
        start = answer.find(reasoning.strip()) if reasoning.strip() else -1
        thought = (0, 0) if start < 0 else (start, start + len(reasoning.strip()))
        return RenderedTurn(
            prompt,
            joint.tokens[len(prompt.tokens) : size],
            [_shift(_token_span(joint, span), -len(prompt.tokens)) for span in spans],
            (0, 0) if start < 0 else _shift(_token_span(joint, _shift(thought, len(text))), -len(prompt.tokens)),
        )

    def _render_answer(
        self, conversation: Conversation, history: Sequence[dict[str, Any]], turn: dict[str, Any], prompt: str
    ) -> str:
        """Return the text of the answer, with what ends it."""
        whole = self._renderer.render(conversation, [*history, turn], prompt=False)
        answer = self._subtract_prompt(prompt, whole, turn)
        if any(text in answer for text in self._stop_texts):
            return answer
        return answer + self._find_following_stop(conversation, turn)

    def _subtract_prompt(self, prompt: str, whole: str, turn: dict[str, Any]) -> str:
        """Return what ``whole`` has beyond ``prompt``, which may open or skip the reasoning."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        empty = _EMPTY_REASONING.search(prompt)
        if empty and whole.startswith(prompt[: empty.start()]):
            return re.sub(rf"\A<{empty[1]}>\s*</{empty[1]}>\s*", "", whole[empty.start() :])
        opened = _OPEN_REASONING.search(prompt)
        if opened and whole.startswith(prompt[: opened.start()]):
            answer = whole[opened.start() :]
            if answer.startswith(f"<{opened[1]}>"):
                return answer.removeprefix(f"<{opened[1]}>").lstrip()
            reasoning = (turn.get("reasoning") or "").strip()
            return f"{reasoning}\n</{opened[1]}>\n\n{answer}"
        # The template changes what is before as soon as a turn follows. The answer follows the same end of the prompt.
        start = max((prompt.rfind(text) for text in self._renderer.special_texts), default=-1)
        ending = prompt[start:]
        parts, repeated = whole.split(ending), prompt.count(ending)
        if start < 0 or len(parts) <= repeated:
            raise Unrenderable("the chat template renders the agent's turn otherwise than it prompts for it")
        return ending.join(parts[repeated:])

    def _find_following_stop(self, conversation: Conversation, turn: dict[str, Any]) -> str:
        """Return the token with which the following message begins: with some bases, that ends a response."""
        calls = turn.get("tool_calls") or []
        if bool(calls) not in self._following_stops:
            following: dict[str, Any] = {"role": "user", "content": "ok"}
            if calls:
                following = {"role": "tool", "content": "ok", "tool_call_id": calls[-1].get("id")}
            said = {key: value for key, value in turn.items() if not key.startswith("reasoning")}
            before = [{"role": "user", "content": "-"}, said]
            whole = self._renderer.render(conversation, before, prompt=False)
            after = self._renderer.render(conversation, [*before, following], prompt=False)
            rest = after[common_prefix_length(whole, after) :].lstrip()
            stop = next((text for text in self._stop_texts if rest.startswith(text)), None)
            if stop is None:
                raise Unrenderable("the chat template writes no token that ends the agent's turn")
            self._following_stops[bool(calls)] = stop
        return self._following_stops[bool(calls)]

    def _find_end(self, joint: TokenizedText, start: int) -> int:
        """Return the index after the token that ends the response."""
        stops = self._renderer.stop_tokens
        end = next((place for place in range(start, len(joint.tokens)) if joint.tokens[place] in stops), None)
        if end is None:
            raise Unrenderable("the chat template writes no token that ends the agent's turn")
        rest = joint.text[joint.ends[end] :]
        for text in self._stop_texts:  # some templates end the whole conversation with another one
            rest = rest.replace(text, "")
        if rest.strip():
            raise Unrenderable("the turn contains a token that ends a turn")
        return end + 1

    def _find_calls(
        self, conversation: Conversation, history: Sequence[dict[str, Any]], turn: dict[str, Any], answer: str
    ) -> list[Span]:
        """Return the spans of the tool calls in ``answer``, in characters: a call is what it adds to the rendering."""
        calls = turn.get("tool_calls") or []
        if not calls:
            return []
        short = self._render_growing(conversation, [{"role": "user", "content": "-"}], turn)
        body = self._strip_end(answer)
        if short is None or not _ends_alike(short, body):
            short = self._render_growing(conversation, history, turn)
        if short is None or not _ends_alike(short, body):
            raise Unrenderable("the chat template does not tell where a tool call begins")
        offset = len(short[-1]) - len(body)
        spans = [_shift(span, -offset) for span in call_spans(short)]
        if any(start >= end or start < 0 for start, end in spans):
            raise Unrenderable("the chat template does not render the agent's tool calls")
        return spans

    def _render_growing(
        self, conversation: Conversation, history: Sequence[dict[str, Any]], turn: dict[str, Any]
    ) -> list[str] | None:
        """Render the turn with its first 0, 1, ... calls, without its end. None, if the template refuses one."""
        calls = turn["tool_calls"]
        bare = {key: value for key, value in turn.items() if key != "tool_calls"}
        turns = [bare, *({**turn, "tool_calls": calls[:count]} for count in range(1, len(calls) + 1))]
        try:
            return [
                self._strip_end(self._renderer.render(conversation, [*history, each], prompt=False)) for each in turns
            ]
        except Unrenderable:
            return None

    def _strip_end(self, text: str) -> str:
        """Return a rendering without the tokens at its end that end the turn and the conversation."""
        while stop := next((stop for stop in self._stop_texts if text.rstrip().endswith(stop)), None):
            text = text.rstrip().removesuffix(stop)
        return text


def _ends_alike(texts: Sequence[str], answer: str) -> bool:
    """Tell whether the turn rendered with all its calls ends, from its first call on, as ``answer`` does.

    What is before the calls may differ: an answer closes the reasoning that its prompt has opened.
    """
    first = common_prefix_length(texts[0], texts[1])
    return answer.endswith(texts[-1][first:])


def call_spans(texts: Sequence[str]) -> list[Span]:
    """Find each tool call in a rendered turn, without parsing it: a call is what it adds to the rendering.

    Args:
        texts: ``texts[i]`` is the turn rendered with its first i calls.

    Returns:
        The half-open span of each call in ``texts[-1]``, in characters.
    """
    spans = []
    for before, after in pairwise(texts):
        start = common_prefix_length(before, after)
        spans.append((start, len(after) - common_prefix_length(before[start:][::-1], after[start:][::-1])))
    return spans


def _shift(span: Span, by: int) -> Span:
    return span[0] + by, span[1] + by


def _token_span(text: TokenizedText, span: Span) -> Span:
    """Return the tokens that overlap with ``span``, which is in characters."""
    return bisect_right(text.ends, span[0]), bisect_left(text.ends, span[1]) + 1
