"""What passes between the gateway and whatever answers for it, and the errors that both write in OpenAI's form.

Imported by the gateway, which never loads torch or vLLM, and by the skill server, which does.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import orjson

Endpoint = Literal["chat", "completions"]
Body = dict[str, Any]
"""A request as the client sent it, in OpenAI's JSON. vLLM validates it; Looper reads ``model`` only."""


BYTES_PER_TOKEN = 4
"""Of a request, roughly: before it is tokenised, or where nobody says."""


class EngineUnavailable(Exception):
    """What was to answer has died before it said anything, and so has what took its place. Ask again."""


@dataclass(frozen=True)
class EngineRequest:
    """One request, authorised and resolved."""

    call: Endpoint
    body: Body
    digest: str | None
    """The version that is to answer, None for the base model."""
    rank: int
    """Of its adapter, 0 for the base model."""
    tenant: str
    """Whose it is, for fair sharing. The engine's side is not told the name, but a digest of it."""
    within_s: float | None = None
    """The client has no use for an answer that begins later."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """The span that it belongs to, in W3C's form."""


class Tokens(NamedTuple):
    """What the engine has done for one request until now, as it counts itself."""

    read: int
    """Of prompts: each counts once, however many answers to it were asked for."""
    generated: int


@dataclass(frozen=True)
class FullResponse:
    """A complete answer: JSON ``body`` with its HTTP ``status``."""

    status: int
    body: bytes
    retry_after_s: float | None = None
    """Of an error that need not last."""
    tokens: Tokens | None = None
    """None where the engine has not begun."""


@dataclass(frozen=True)
class Said:
    """Text of server-sent events, whole ones, or no text where there is only something to count."""

    text: str
    tokens: Tokens


Tier = Literal["memory", "disk", "store"]
"""Where an adapter is found: the engine's memory, the replica's disk, or only the object store."""


@dataclass(frozen=True)
class AdmissionInfo:
    """How an engine made ready for a request, said when its turn has come."""

    tier: Tier | None
    """Where its adapter was found, None for the base model."""
    load_s: float
    """To bring the adapter."""
    wait_s: float
    """In line, then."""
    slots_taken: float
    """The share of the engine's slots that was taken when its turn came."""
    evicted: Mapping[Tier, int]
    """How many adapters were put out of each tier since this engine said so last."""


Reply: TypeAlias = AdmissionInfo | Said | FullResponse
"""At most one Opening; then events, or counts alone and one Whole. A stream that breaks ends with a Whole, too."""


class EngineClient(Protocol):
    """What answers requests."""

    def answer(self, ask: EngineRequest) -> AsyncGenerator[Reply, None]: ...

    async def prefetch(self, digest: str, rank: int, hold_s: float) -> None:
        """Bring an adapter to where requests for it go, and keep it there for so long at least.

        Says nothing if it cannot be brought: whoever asks for it will hear.
        """


def error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> FullResponse:
    """An error in OpenAI's form: ``invalid_request_error`` below 500, ``server_error`` from there on."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    detail = {"message": message, "type": kind, "param": param, "code": code}
    return FullResponse(status, orjson.dumps({"error": detail}), retry_after_s)
