"""Checks a request's values and size before it enters the admission queue. ``SkillServer.generate`` calls it.

vLLM 0.29 validates most fields itself, but accepts some numbers that end its engine, together with all other requests.

Imports neither torch nor vLLM: ``request`` is one of vLLM's request models, and only its fields are read.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from looper.serve.error_responses import error_response
from looper.serve.protocol import FullResponse

TOKEN_ID_FIELDS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")
"""Fields that are lists of token ids."""

INTERNAL_FIELDS = ("kv_transfer_params", "ec_transfer_params")
"""Fields that vLLM servers send to each other. One has token ids that vLLM does not even check to be numbers."""

INT64 = range(-(2**63), 2**63)
"""Valid integers: values are sent to the engine's process in 64 bits."""

MAX_LENGTH_PENALTY = 10.0
"""Maximum absolute length penalty of beam search. vLLM raises a length to this power: 52 overflows at 10**6 tokens."""


def count_sequences(request: Any) -> int:
    """Return how many sequences the engine generates for a request.

    Args:
        request: A validated ``ChatCompletionRequest`` or ``CompletionRequest`` of vLLM.

    Returns:
        Number of prompts times number of choices or beams.
    """
    return _count_prompts(request) * (1 if request.n is None else int(request.n))


def check_bounds(request: Any, vocab_size: int, max_sequences: int) -> FullResponse | None:
    """Check that the engine can handle the values of a request.

    Args:
        request: A validated ``ChatCompletionRequest`` or ``CompletionRequest`` of vLLM.
        vocab_size: Vocabulary size of the base model. Token ids are below it.
        max_sequences: Maximum number of sequences of one request.

    Returns:
        An error with status 400 that names the field. None, if the request is valid.
    """
    for field, problem in _find_problems(request, vocab_size):
        return error_response(400, f"{field}: {problem}", param=field)
    prompts, choices = _count_prompts(request), 1 if request.n is None else request.n
    if choices < 1:
        return error_response(400, f"n: must be at least 1, but is {choices}", param="n")
    if prompts < 1:
        return error_response(400, "prompt: must not be empty", param="prompt")
    if prompts * choices > max_sequences:
        field = "n" if choices > max_sequences or prompts <= max_sequences else "prompt"
        requested = f"{prompts} prompts with n = {choices}" if prompts > 1 else f"n = {choices}"
        message = f"{field}: {requested} needs {prompts * choices} sequences, but the maximum is {max_sequences}"
        return error_response(400, message, param=field)
    return None


def _find_problems(request: Any, vocab_size: int) -> Iterator[tuple[str, str]]:
    """Yield fields and what is wrong with their values."""
    for field in INTERNAL_FIELDS:
        if getattr(request, field, None) is not None:
            yield field, "is reserved for traffic between engines"
    for field, ids in _token_ids(request):
        unknown = next((id for id in (min(ids, default=0), max(ids, default=0)) if not 0 <= id < vocab_size), None)
        if unknown is not None:
            yield field, f"token id {unknown} is not in the vocabulary (0 to {vocab_size - 1})"
    if abs(request.length_penalty) > MAX_LENGTH_PENALTY:
        yield (
            "length_penalty",
            f"{request.length_penalty} is not between {-MAX_LENGTH_PENALTY} and {MAX_LENGTH_PENALTY}",
        )
    for field, value in request:
        for number in _numbers(value):
            if isinstance(number, int):
                if number not in INT64:
                    yield field, f"{number} does not fit in 64 bits"
            elif not math.isfinite(number):
                yield field, f"{number} is not a finite number"


def _token_ids(request: Any) -> Iterator[tuple[str, Iterable[int]]]:
    prompt = getattr(request, "prompt", None)
    if isinstance(prompt, list) and prompt:
        for ids in [prompt] if isinstance(prompt[0], int) else prompt:
            if isinstance(ids, list):
                yield "prompt", ids
    for field in TOKEN_ID_FIELDS:
        yield field, getattr(request, field) or []
    try:
        yield "logit_bias", [int(id) for id in request.logit_bias or {}]
    except ValueError:
        return  # vLLM rejects the key and names it


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield ``value``, or the values of a mapping, if they are numbers."""
    for item in value.values() if isinstance(value, Mapping) else (value,):
        if isinstance(item, int | float):
            yield item


def _count_prompts(request: Any) -> int:
    """Return the number of prompts. A chat has one."""
    if "prompt" not in type(request).model_fields:
        return 1
    prompt, embeds = request.prompt, request.prompt_embeds
    if not isinstance(prompt, list):
        texts = 0 if prompt is None else 1
    else:
        texts = 1 if prompt and isinstance(prompt[0], int) else len(prompt)
    return texts + (len(embeds) if isinstance(embeds, list) else int(embeds is not None))
