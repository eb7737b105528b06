"""Answers kept in the object store, one object for each request: a job that starts again asks only what is missing."""

from collections.abc import Sequence

import orjson

from looper.jobs.synthesis.llm.request import Ask, LLMRequest
from looper.platform.domain.errors import NotFound
from looper.platform.objectstore import ObjectStore, keys

TOGETHER = 32
"""Requests that are asked at once. What is lost by dying is one such batch."""


def ask_cached(
    requests: Sequence[LLMRequest], ask: Ask, store: ObjectStore, tenant: str, model: str, together: int = TOGETHER
) -> list[str | None]:
    """What ``ask`` answers, or once answered in a job of ``tenant``; ``model`` names who is asked.

    A request that comes twice is asked once. What had no answer is not kept, and asked again next time. Where a whole
    batch has no answer, the model is taken to be gone, and the rest is not asked.
    """
    digests = [request.digest(model) for request in requests]
    by_digest = dict(zip(digests, requests, strict=True))
    answers = {digest: _recall(store, keys.answer(tenant, digest)) for digest in by_digest}
    missing = [digest for digest, answer in answers.items() if answer is None]
    for start in range(0, len(missing), together):
        batch = missing[start : start + together]
        found = dict(zip(batch, ask([by_digest[digest] for digest in batch]), strict=True))
        for digest, answer in found.items():
            if answer is not None:
                store.put(keys.answer(tenant, digest), orjson.dumps({"model": model, "answer": answer}))
        answers |= found
        if not any(answer is not None for answer in found.values()):
            break
    return [answers[digest] for digest in digests]


def _recall(store: ObjectStore, key: str) -> str | None:
    try:
        return str(orjson.loads(store.get(key))["answer"])
    except NotFound:
        return None
