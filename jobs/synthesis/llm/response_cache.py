"""A cache of model responses in the object store, one object for each request.

``model_factory.LanguageModel.with_cache`` puts it in front of a model. A job that starts again sends only the requests
that have no response yet.
"""

from collections.abc import Sequence

import orjson

from looper.jobs.synthesis.llm.request import Generate, LLMRequest
from looper.platform.domain.errors import NotFound
from looper.platform.objectstore import ObjectStore, keys

BATCH_SIZE = 32
"""Number of requests that are sent together. If the process dies, the responses to one such batch are lost."""


def generate_cached(
    requests: Sequence[LLMRequest],
    generate: Generate,
    store: ObjectStore,
    tenant: str,
    model: str,
    batch_size: int = BATCH_SIZE,
) -> list[str | None]:
    """Return cached responses, and send the requests that have none.

    A request that occurs twice is sent once. A missing response is not cached, so that the request is sent again next
    time. If a whole batch gets no response, the model counts as unavailable and the remaining batches are not sent.

    Args:
        requests: The requests.
        generate: Sends requests to the model.
        store: Object store with the cached responses.
        tenant: Tenant of the job. Tenants do not share responses.
        model: Name of the model, which is part of the cache key.
        batch_size: Number of requests that are sent together.

    Returns:
        The response to each request, or None where there is none.
    """
    digests = [request.digest(model) for request in requests]
    by_digest = dict(zip(digests, requests, strict=True))
    responses = {digest: _read_cached(store, keys.llm_response(tenant, digest)) for digest in by_digest}
    missing = [digest for digest, response in responses.items() if response is None]
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        new = dict(zip(batch, generate([by_digest[digest] for digest in batch]), strict=True))
        for digest, response in new.items():
            if response is not None:
                store.put(keys.llm_response(tenant, digest), orjson.dumps({"model": model, "answer": response}))
        responses |= new
        if not any(response is not None for response in new.values()):
            break
    return [responses[digest] for digest in digests]


def _read_cached(store: ObjectStore, key: str) -> str | None:
    try:
        return str(orjson.loads(store.get(key))["answer"])
    except NotFound:
        return None
