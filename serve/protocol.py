"""What passes between the gateway and whatever answers for it, and the errors that both write in OpenAI's form.

Imported by the gateway, which never loads torch or vLLM, and by the skill server, which does.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import orjson

Call = Literal["chat", "completions"]
Body = dict[str, Any]
"""A request as the client sent it, in OpenAI's JSON. vLLM validates it; Looper reads ``model`` only."""


@dataclass(frozen=True)
class Whole:
    """A complete answer: JSON ``body`` with its HTTP ``status``."""

    status: int
    body: bytes


Reply: TypeAlias = Whole | str
"""Either one Whole and nothing else, or text of server-sent events (each item holds whole events)."""


class Engine(Protocol):
    """What answers a request, with the version ``digest``, or with the base model if that is None."""

    def answer(self, call: Call, body: Body, digest: str | None) -> AsyncGenerator[Reply, None]: ...


def error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> Whole:
    """An error in OpenAI's form: ``invalid_request_error`` below 500, ``server_error`` from there on."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    detail = {"message": message, "type": kind, "param": param, "code": code}
    return Whole(status, orjson.dumps({"error": detail}))
