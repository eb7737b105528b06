"""``looper chat``: sends one message to a skill."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpx import Response

TIMEOUT_S = 600.0
"""Longest wait for the next piece of an answer, in seconds. An engine may have to start first."""


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="TENANT/INSTANCE", help="Name of the skill; with @channel or @digest for a certain version."
        ),
    ],
    message: Annotated[str, typer.Argument(help="The message.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens in the response.")] = 256,
) -> None:
    """Send a message to a skill, as an OpenAI client does, and print the response.

    Example: `looper chat acme/helpdesk "Order 1207 arrived broken"`
    """
    import httpx

    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.errors import StoreUnavailable
    from looper.platform.domain.names import ModelName

    name = ModelName.parse(model)
    endpoint = open_control_plane().chat_endpoint(name.instance.tenant)
    body = {"model": str(name), "messages": [{"role": "user", "content": message}], "max_tokens": max_tokens}
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    try:
        with (
            httpx.Client(verify=endpoint.verify, headers=headers, timeout=TIMEOUT_S) as http,
            http.stream("POST", f"{endpoint.url}/v1/chat/completions", json=body | {"stream": True}) as response,
        ):
            for text in _read_stream(response):
                typer.echo(text, nl=False)
    except httpx.TransportError as error:
        raise StoreUnavailable(f"{endpoint.url} did not answer: {error}") from error
    typer.echo("")


def _read_stream(response: "Response") -> "Iterator[str]":
    """Yield the pieces of text of a streamed chat completion, in OpenAI's protocol."""
    import json

    from looper.platform.api.error_table import from_http

    if not response.is_success:
        raise from_http(response.status_code, response.read(), response.headers)
    for line in response.iter_lines():
        event = line.removeprefix("data:").strip()
        if not line.startswith("data:") or event == "[DONE]":
            continue
        chunk = json.loads(event)
        if "error" in chunk:  # what went wrong after the response had begun
            raise from_http(500, event.encode(), response.headers)
        for choice in chunk.get("choices", ()):
            yield choice.get("delta", {}).get("content") or ""
