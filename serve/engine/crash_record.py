"""Writes down which requests an engine ran when it died, so that an operator can find out which one killed it.

A record is a JSON file in ``home/crashes`` that only its owner can read, because it holds the requests themselves:
each ``body`` can be sent again to ``/v1``.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from looper.serve.protocol import EngineRequest, TokenCounts

MAX_RECORDS = 50
"""Number of the newest records that are kept."""


@dataclass(eq=False)
class RunningRequest:
    """A request that a replica has received."""

    request: EngineRequest
    """The request."""
    is_admitted: bool = False
    """Whether the engine has received it too."""
    tokens: TokenCounts | None = None
    """Tokens so far, None if the engine has not started on it."""

    @property
    def request_id(self) -> str:
        """Id of the request in the gateway's log."""
        return str(self.request.body.get("request_id"))

    @property
    def generated(self) -> int:
        """Number of generated tokens so far."""
        return self.tokens.generated if self.tokens else 0


def write_crash_record(folder: Path, replica: str, suspects: Iterable[RunningRequest]) -> Path:
    """Write a record of an engine's death.

    Args:
        folder: Folder of the records. It is created if it does not exist.
        replica: Id of the replica.
        suspects: Requests that the engine had received.

    Returns:
        The file.
    """
    now = datetime.now(UTC)
    record = {
        "died_at": now.isoformat(),
        "replica": replica,
        "suspects": [
            {
                "request_id": running.request_id,
                "tenant_hash": running.request.tenant_hash,
                "version": running.request.digest,
                "endpoint": running.request.endpoint,
                "prompt_tokens": running.tokens.prompt if running.tokens else 0,
                "generated_tokens": running.generated,
                "body": running.request.body,
            }
            # Those that the engine had just begun with are the first to be looked at.
            for running in sorted(suspects, key=lambda running: running.generated)
        ],
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{now:%Y%m%dT%H%M%S.%f}-{replica}.json"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(orjson.dumps(record, default=str, option=orjson.OPT_INDENT_2))
    for old in sorted(folder.glob("*.json"))[:-MAX_RECORDS]:
        old.unlink(missing_ok=True)
    return path
