"""What a request may hold, checked before it takes a seat.

vLLM 0.29 checks most fields itself, but takes some numbers that its engine does not survive, with everyone's requests.
Neither torch nor vLLM is imported here: ``request`` is one of vLLM's requests, of which the fields are read.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from looper.serve.protocol import Whole, error

TOKENS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")
"""Fields that are lists of token ids."""

INTERNAL = ("kv_transfer_params", "ec_transfer_params")
"""Fields that vLLM's servers send each other. One of them carries token ids that are not even checked to be numbers."""

INT64 = range(-(2**63), 2**63)
"""Of any integer: what the engine's process is told is encoded in 64 bits."""

MAX_LENGTH_PENALTY = 10.0
"""Of beam search, either way: vLLM raises a length to this power, which overflows for 52 at a million tokens."""


def count_sequences(request: Any) -> int:
    """How many sequences are generated for it: for each prompt, as many as choices or beams are asked for."""
    return _count_prompts(request) * (1 if request.n is None else int(request.n))


def check_bounds(request: Any, vocab_size: int, max_sequences: int) -> Whole | None:
    """Find what the engine must not see.

    Args:
        request: A validated ``ChatCompletionRequest`` or ``CompletionRequest`` of vLLM's.
        vocab_size: Tokens that the base model knows; their ids are below.
        max_sequences: Most sequences of one request.

    Returns:
        An error with status 400 that names the field, or None if all is well.
    """
    for field, found in _wrong(request, vocab_size):
        return error(400, f"{field}: {found}", param=field)
    prompts, choices = _count_prompts(request), 1 if request.n is None else request.n
    if choices < 1:
        return error(400, f"n: at least 1 answer, not {choices}", param="n")
    if prompts < 1:
        return error(400, "prompt: there is none", param="prompt")
    if prompts * choices > max_sequences:
        field = "n" if choices > max_sequences or prompts <= max_sequences else "prompt"
        asked = f"{prompts} prompts with n = {choices}" if prompts > 1 else f"n = {choices}"
        message = f"{field}: {asked} ask for {prompts * choices} answers at once; {max_sequences} is the most"
        return error(400, message, param=field)
    return None


def _wrong(request: Any, vocab_size: int) -> Iterator[tuple[str, str]]:
    """Fields, and what is wrong with them."""
    for field in INTERNAL:
        if getattr(request, field, None) is not None:
            yield field, "is for engines among themselves"
    for field, ids in _token_ids(request):
        unknown = next((id for id in (min(ids, default=0), max(ids, default=0)) if not 0 <= id < vocab_size), None)
        if unknown is not None:
            yield field, f"token {unknown} is unknown: ids go from 0 to {vocab_size - 1}"
    if abs(request.length_penalty) > MAX_LENGTH_PENALTY:
        yield "length_penalty", f"{request.length_penalty} is not from {-MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}"
    for field, value in request:
        for number in _numbers(value):
            if isinstance(number, int):
                if number not in INT64:
                    yield field, f"{number} does not fit in 64 bits"
            elif not math.isfinite(number):
                yield field, f"{number} is no finite number"


def _token_ids(request: Any) -> Iterator[tuple[str, Iterable[int]]]:
    prompt = getattr(request, "prompt", None)
    if isinstance(prompt, list) and prompt:
        for ids in [prompt] if isinstance(prompt[0], int) else prompt:
            if isinstance(ids, list):
                yield "prompt", ids
    for field in TOKENS:
        yield field, getattr(request, field) or []
    try:
        yield "logit_bias", [int(id) for id in request.logit_bias or {}]
    except ValueError:
        return  # vLLM refuses it, and says which


def _numbers(value: Any) -> Iterator[int | float]:
    """``value`` itself, or those in a mapping, if they are numbers."""
    for each in value.values() if isinstance(value, Mapping) else (value,):
        if isinstance(each, int | float):
            yield each


def _count_prompts(request: Any) -> int:
    """One for a chat."""
    if "prompt" not in type(request).model_fields:
        return 1
    prompt, embeds = request.prompt, request.prompt_embeds
    if not isinstance(prompt, list):
        texts = 0 if prompt is None else 1
    else:
        texts = 1 if prompt and isinstance(prompt[0], int) else len(prompt)
    return texts + (len(embeds) if isinstance(embeds, list) else int(embeds is not None))
