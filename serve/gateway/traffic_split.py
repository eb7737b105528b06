"""Splits the conversations with a skill between its ``prod`` version and its canaries. Used by ``completion_handler``.

A conversation keeps its version: the choice depends only on the skill and on how the conversation begins, which is the
same in each of its turns. So all gateways choose alike, without asking each other, also after a restart. The decision
record ``docs/decisions/0023-canaries-by-conversation.md`` says what this costs.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from looper.platform.catalog import RouteTarget
from looper.platform.domain.names import InstanceName


def conversation_key(user: str | None, body: Mapping[str, Any]) -> bytes:
    """Return what tells a conversation from others, from any of its turns.

    Args:
        user: The request's field ``user``.
        body: OpenAI's request. A chat is told by ``user`` and the messages up to the first of the user. A completion is
            told by ``user``, or by the prompt if there is none, because a prompt does not say where it began.

    Returns:
        Bytes, equal for all turns of a conversation.
    """
    messages = body.get("messages")
    if isinstance(messages, list):
        beginning = [text for message in _until_user(messages) for text in _texts(message.get("content"))]
    else:
        beginning = [] if user is not None else [repr(body.get("prompt"))]
    return repr([str(user), *beginning]).encode(errors="surrogatepass")


def pick_target(instance: InstanceName, conversation: bytes, targets: Sequence[RouteTarget]) -> RouteTarget:
    """Choose the version of a conversation.

    A larger share of a canary moves conversations from ``prod`` to the canary, and none from the canary to ``prod``.

    Args:
        instance: The skill.
        conversation: The conversation, from ``conversation_key``.
        targets: The versions that share the conversations, ``prod`` first. Their shares sum up to 1.

    Returns:
        One of the targets.
    """
    digest = hashlib.blake2b(conversation, digest_size=8, key=hashlib.sha256(str(instance).encode()).digest()).digest()
    point = int.from_bytes(digest) / 2**64
    prod, *canaries = targets
    for canary in canaries:
        if point < canary.share:
            return canary
        point -= canary.share
    return prod


def _until_user(messages: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages up to the first of the user."""
    for message in messages:
        if isinstance(message, Mapping):
            yield message
            if message.get("role") == "user":
                return


def _texts(content: Any) -> Iterator[str]:
    """Yield the text of a message, which is a string or a list of parts."""
    for part in content if isinstance(content, list) else [{"text": content}]:
        if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
            yield text
