"""Checks a request's token ids against the vocabulary before vLLM sees them. ``vllm_requests`` calls it.

vLLM 0.29 accepts some ids that end its engine, together with all other requests. All other bounds are known without the
base model, and the gateway has checked them (``serve/requests``). Imports neither torch nor vLLM.
"""

from collections.abc import Iterator

from looper.serve.error_responses import error_response
from looper.serve.protocol import FullResponse, RequestBody

TOKEN_ID_FIELDS = ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")
"""Fields that are lists of token ids."""


def check_token_ids(body: RequestBody, vocab_size: int) -> FullResponse | None:
    """Check that the base model has all token ids of a request.

    Args:
        body: A request that the gateway has parsed.
        vocab_size: Vocabulary size of the base model. Token ids are below it.

    Returns:
        An error with status 400 that names the field. None, if the request is valid.
    """
    for field, ids in _token_ids(body):
        if ids and (unknown := max(ids)) >= vocab_size:
            message = f"{field}: token id {unknown} is not in the vocabulary (0 to {vocab_size - 1})"
            return error_response(400, message, param=field)
    return None


def _token_ids(body: RequestBody) -> Iterator[tuple[str, list[int]]]:
    """Yield fields with their token ids, of which none is negative."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        for ids in [prompt] if isinstance(prompt[0], int) else prompt:
            if isinstance(ids, list):
                yield "prompt", ids
    for field in TOKEN_ID_FIELDS:
        yield field, body.get(field, [])
    yield "logit_bias", [int(id) for id in body.get("logit_bias", {})]
