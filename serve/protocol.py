"""The types that pass between the gateway and the engine replicas.

The gateway imports this module and never loads torch or vLLM. The skill server (``serve/engine``), which does load
them, imports it too. The error responses of both sides are in ``serve/error_responses.py``.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

Endpoint = Literal["chat", "completions"]
"""The OpenAI endpoint that a request was sent to."""

RequestBody = dict[str, Any]
"""A request in OpenAI's JSON, with the fields of ``serve/requests/fields.py`` only, each within its bounds."""

BYTES_PER_TOKEN = 4
"""Rough number of bytes of a request body per prompt token, for estimates before the prompt is tokenized."""


def estimate_prompt_tokens(body_bytes: int) -> int:
    """Estimate how many prompt tokens a request has before it is tokenized.

    Args:
        body_bytes: Size of the request body, in bytes.

    Returns:
        The estimated number of tokens.
    """
    return body_bytes // BYTES_PER_TOKEN


class EngineUnavailable(Exception):
    """No engine can run the request now, or the engine died while it ran the request.

    Args:
        response: The response for a client that has heard nothing yet.

    Attributes:
        response: The same response.
    """

    def __init__(self, response: "FullResponse") -> None:
        super().__init__(response.body.decode())
        self.response = response


@dataclass(frozen=True)
class EngineRequest:
    """One authenticated request whose model name has been resolved to a version."""

    endpoint: Endpoint
    """The OpenAI endpoint that it was sent to."""
    body: RequestBody
    """OpenAI's JSON; ``model`` is the digest, or the base model's name."""
    digest: str | None
    """Digest of the version, None for the base model."""
    rank: int
    """LoRA rank of the version's adapter, 0 for the base model."""
    tenant_hash: str
    """Identifies the tenant for fair queueing and for the prefix cache. It does not reveal the tenant's name."""
    base: str = ""
    """Base model of the version, or the base model itself. Not needed where the engines have only one."""
    num_seqs: int = 1
    """Number of sequences that the engine generates: prompts times choices or beams."""
    estimated_prompt_tokens: int = 0
    """Estimated number of prompt tokens, for the admission queue."""
    max_wait_s: float | None = None
    """Refuse the request if its response would begin later than this many seconds. None: no limit."""
    trace_context: Mapping[str, str] = field(default_factory=dict)
    """The span that the request belongs to, as W3C trace context headers."""


class TokenCounts(NamedTuple):
    """Tokens that the engine has processed for one request so far, by the engine's own count."""

    prompt: int
    """Prompt tokens. Each prompt counts once, however many choices were requested."""
    generated: int
    """Generated tokens of all choices."""


@dataclass(frozen=True)
class FullResponse:
    """A complete response: a result that is not streamed, or an error."""

    status: int
    """HTTP status."""
    body: bytes
    """JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers beyond the content type, with names in lower case, such as ``retry-after``."""
    tokens: TokenCounts | None = None
    """None if the engine has not started on the request."""


@dataclass(frozen=True)
class StreamChunk:
    """The next part of a response, with the token counts so far."""

    text: str
    """Complete server-sent events, or "" if only the counts changed."""
    tokens: TokenCounts
    """Tokens of the request so far."""


Tier = Literal["memory", "disk", "store"]
"""Where an adapter was found: in the engine's slots or host memory, on the replica's disk, or in the object store."""


@dataclass(frozen=True)
class AdmissionInfo:
    """How a replica prepared a request. It is sent when the admission queue has admitted the request."""

    tier: Tier | None
    """Tier in which the adapter was found, None for the base model."""
    load_s: float
    """Time to load the adapter, in seconds."""
    wait_s: float
    """Time in the admission queue after the adapter was loaded, in seconds."""
    slot_usage: float
    """Share of the engine's adapter slots in use when the request was admitted, from 0 to 1."""
    evicted: Mapping[Tier, int]
    """Adapters evicted from each tier since this replica last reported."""


EngineOutput: TypeAlias = AdmissionInfo | StreamChunk | FullResponse
"""What an engine yields for a request: at most one ``AdmissionInfo``, then chunks and at most one ``FullResponse``.

A stream that fails ends with a ``FullResponse`` too.
"""


@dataclass(frozen=True)
class EngineDied:
    """The last thing that a replica says of a request if its engine is dead. Gateways never pass it on."""

    replica: str
    """Id of the replica, which starts the engine again."""
    retry_after_s: float
    """Estimated time until the engine runs again, in seconds."""


class EngineClient(Protocol):
    """What the gateway needs from the engines. ``serve/deployment`` implements it with Ray Serve handles."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Run a request on an engine.

        Args:
            request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes.

        Raises:
            EngineUnavailable: No engine can run the request now, or its engine died.
        """
        ...

    async def prefetch(self, base: str, digest: str, rank: int, hold_s: float) -> None:
        """Load an adapter on the replica that receives its requests. A failure is logged and not raised.

        Args:
            base: Base model that it was trained on.
            digest: Digest of the version.
            rank: LoRA rank of its adapter.
            hold_s: Minimum time for which the adapter stays in memory, in seconds.
        """
