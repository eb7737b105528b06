"""What the tenants got during one fault, from the lines that ``load`` has printed."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

QUIET_S = 5.0
"""All is as before once every attempt of so many seconds was answered, at every address."""

BOUND_S = 60.0
"""How long after the end of a fault all is to be as before, in seconds."""

GRACE_S = 110
"""How long a node that is drained has, in seconds. A pod of Kubernetes has two minutes (the chart's values)."""

LONGEST_ATTEMPT_S = 65.0
"""How long an attempt may take: ``serve.request_timeout_s`` of the deployment, and the way there and back."""


class FaultResult(BaseModel):
    """What one fault did."""

    fault: str
    requests: int
    """Requests that were under way during the fault, or after it and before the next one."""
    attempts: dict[str, int]
    """Attempts by what came of them, with the reason."""
    slowest_attempt_s: float
    slowest_request_s: float
    """With all its attempts and pauses."""
    fault_s: float
    """How long the fault lasted, in seconds: for a node that is killed, until Ray runs there again."""
    recovered_s: float | None
    """Seconds after the end of the fault until all was as before; None if that was given up."""
    missed: list[str]
    """What was not as it should be, in words."""


class Lines:
    """The lines that a growing file has so far."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return all events."""
        with self._path.open() as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind("\n") + 1]
        self._read += len(whole)
        self.events += [json.loads(line) for line in whole.splitlines()]
        return self.events


def is_quiet(events: Sequence[dict[str, Any]], now: float, addresses: Sequence[str]) -> bool:
    """Whether all addresses are up, and answered all attempts of the last ``QUIET_S`` seconds."""
    up = {event["address"]: event["up"] for event in events if event["kind"] == "address"}
    ended = [event for event in events if event["kind"] == "attempt" and event["at"] + event["took"] > now - QUIET_S]
    answering = {event["address"] for event in ended}
    return (
        all(up.get(address) for address in addresses)
        and answering == set(addresses)
        and all(event["outcome"] == "right" for event in ended)
    )


class Window(NamedTuple):
    """When one fault was, in seconds of ``time.time``."""

    fault: str
    """Its name."""
    hurt: Sequence[str]
    """Addresses of the node that has it. Attempts may be lost there, and nowhere else."""
    began: float
    ended: float
    recovered: float | None
    """When all looked as before, None if that was given up. What had been sent by then may still fail."""
    until: float
    """When the next fault began. What was under way then is of the next one."""


def measure(window: Window, events: Sequence[dict[str, Any]]) -> FaultResult:
    """Sum up one fault.

    Args:
        window: When it was.
        events: What ``load`` has printed.
    """
    fault, hurt, began, ended, recovered, until = window
    during = [event for event in events if began <= event["at"] + event.get("took", 0) < until]
    attempts = [event for event in during if event["kind"] == "attempt"]
    requests = [event for event in during if event["kind"] == "request"]
    if recovered is not None:
        failures = [event["at"] + event["took"] for event in attempts if event["outcome"] != "right"]
        up = [event["at"] for event in during if event["kind"] == "address" and event["up"]]
        recovered = max(recovered, ended, *failures, *up)
    kinds = Counter(f"{event['outcome']} {event['reason']}".strip() for event in attempts)
    slowest = max((event["took"] for event in attempts), default=0.0)
    missed = [f"{count} {kind}" for kind, count in kinds.items() if kind.split()[0] in ("wrong", "unclean", "hung")]
    missed += [
        f"{count} lost at {address}, which was well"
        for address, count in Counter(e["address"] for e in attempts if e["outcome"] == "lost").items()
        if address not in hurt
    ]
    missed += [f"{sum(event['outcome'] == 'given up' for event in requests)} given up"] * any(
        event["outcome"] == "given up" for event in requests
    )
    if slowest > LONGEST_ATTEMPT_S:
        missed.append(f"an attempt took {slowest:.0f} s")
    if recovered is None or recovered - ended > BOUND_S:
        missed.append(f"not as before within {BOUND_S:.0f} s")
    return FaultResult(
        fault=fault,
        requests=len(requests),
        attempts=dict(kinds),
        slowest_attempt_s=slowest,
        slowest_request_s=max((event["took"] for event in requests), default=0.0),
        fault_s=round(ended - began, 1),
        recovered_s=None if recovered is None else round(recovered - ended, 1),
        missed=missed,
    )
