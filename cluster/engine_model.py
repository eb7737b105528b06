"""The cluster's own engines as the language model of synthesis: no other copy of the base model is started for it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cache, partial
from typing import Any

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.synthesis.llm.model_factory import LanguageModel, open_model
from looper.jobs.synthesis.llm.request import LLMRequest
from looper.jobs.synthesis.llm.sending import RetryableFailure, Send, read_completion, send_all
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.settings import Settings
from looper.serve.deployment.ray_app import connect_to_engines
from looper.serve.protocol import EngineRequest, EngineUnavailable, FullResponse, estimate_prompt_tokens

QUEUE = "synthesis"
"""Takes the place of a tenant in the engines' fair queues: synthesis for all tenants together is served as one."""


def open_cluster_model(settings: Settings, name: str, base: BaseModelSource) -> LanguageModel:
    """Open the model that stages of synthesis ask on a cluster. Call it in a process that is connected to its Ray.

    Args:
        settings: Settings of the cluster.
        name: Name of the base model.
        base: The base model.

    Returns:
        The model at the endpoint that the settings name, or the base model on the cluster's engines if they name none.

    Raises:
        InvalidInput: The settings name an endpoint but no model.
    """
    if settings.synthesis.model.endpoint is not None:
        return open_model(settings.synthesis.model, base)
    return LanguageModel(
        read_base_revision(base.on_this_node(weights=False)),
        partial(generate_with_engines, settings=settings, base=name),
    )


def generate_with_engines(requests: Sequence[LLMRequest], settings: Settings, base: str) -> list[str | None]:
    """Send requests to the cluster's engines, as ``send_all`` does.

    This blocks and must not be called inside an event loop.

    Args:
        requests: The requests.
        settings: Settings of the cluster.
        base: Name of the base model that answers.

    Returns:
        The response to each request, or None where there is none.
    """
    engines = connect_to_engines(settings)

    async def send(body: dict[str, Any]) -> str:
        estimate = estimate_prompt_tokens(len(json.dumps(body)))
        request = EngineRequest("chat", body, None, 0, QUEUE, base=base, estimated_prompt_tokens=estimate)
        try:
            async with aclosing(engines.generate(request)) as outputs:
                async for output in outputs:
                    if isinstance(output, FullResponse):
                        return read_completion(output.status, output.headers, output.body)
        except EngineUnavailable as error:
            return read_completion(error.response.status, error.response.headers, error.response.body)
        raise RetryableFailure("the engine ended without a response")

    @asynccontextmanager
    async def open_sender() -> AsyncIterator[Send]:
        yield send

    model = settings.synthesis.model
    sending = send_all(requests, model, base, "The cluster's engines", open_sender)
    return asyncio.run_coroutine_threadsafe(sending, _event_loop()).result()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that never ends: Ray Serve's handles belong to the one in which they were first used."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="engines", daemon=True).start()
    return loop
