"""Sends requests to an OpenAI-compatible endpoint.

``model_factory.open_model`` chooses it if the settings name an endpoint.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from looper.jobs.synthesis.llm.request import LLMRequest
from looper.jobs.synthesis.llm.sending import NoResponse, RetryableFailure, Send, read_completion, send_all
from looper.platform.settings import ModelSettings


def generate_with_endpoint(requests: Sequence[LLMRequest], settings: ModelSettings) -> list[str | None]:
    """Send requests to the endpoint that the settings name, as ``send_all`` does.

    This blocks and must not be called inside an event loop.

    Args:
        requests: The requests.
        settings: Endpoint, model, key and limits.

    Returns:
        The response to each request, or None where there is none.
    """
    assert settings.endpoint is not None, "open_model calls this only if an endpoint is set"
    assert settings.name is not None, "open_model has checked it"
    url = f"{settings.endpoint.rstrip('/')}/chat/completions"
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value().strip()}"} if settings.api_key else {}

    @asynccontextmanager
    async def open_sender() -> AsyncIterator[Send]:
        limits = httpx.Limits(max_connections=settings.max_concurrency)
        # Each attempt has a timeout as a whole. httpx would never time out a server that sends a byte now and then.
        async with httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client:

            async def send(body: dict[str, Any]) -> str:
                try:
                    response = await client.post(url, json=body)
                except httpx.TransportError as error:
                    raise RetryableFailure(f"lost the connection ({type(error).__name__})") from error
                except httpx.HTTPError as error:
                    raise NoResponse(f"could not be sent ({type(error).__name__})") from error
                return read_completion(response.status_code, response.headers, response.content)

            yield send

    target = f"The model endpoint {httpx.URL(url).host}"
    return asyncio.run(send_all(requests, settings, settings.name, target, open_sender))
