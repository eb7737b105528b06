"""Which loads the capacity benchmark puts on whom. All peers get the same requests at the same moments."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.workload import Load, WorkloadRequest

COUNTS = (1, 5, 8, 64, 512, 2000)
STEADY = 0.6
"""Of the requests that Looper answers in a second of the load that it cannot keep up with, what the steady load has."""
FULL = 2.0
"""Times as many, in the load that nobody keeps up with."""
COLD = 32
"""Adapters that are asked for at once, none of which was asked for before."""
COLD_S = 240.0
"""When clients leave who have no whole answer then."""
ROUNDS = 3
"""Of each load, with requests of their own; what counts is the median."""
KNOWN = 1000
"""The most popular of a load's adapters, each of which a peer is asked for once before it is measured."""
KNOWN_S = 240.0
"""But for no longer than that."""
KINDS = ("full", "steady", "cold")
"""Of loads, in the order in which reports have them."""


class Case(BaseModel):
    """One load on one peer."""

    model_config = ConfigDict(frozen=True)

    peer: str
    load: Load
    kind: str
    """``full``: more than can be answered, cut off at the end; ``steady``; or ``cold``."""

    @property
    def name(self) -> str:
        return f"{self.peer}, {self.kind}, {self.load.adapters} adapters"

    @property
    def within_s(self) -> float:
        """When clients leave who have no whole answer."""
        return self.load.seconds if self.kind == "full" else 3 * self.load.seconds

    def round(self, number: int) -> "Case":
        """The same load, of other requests."""
        return self.model_copy(update={"load": self.load.model_copy(update={"seed": number})})

    def warm_up(self) -> Load:
        """A little of the same kind, that can be answered: what came before it is over then, too."""
        rate = self.load.rate * (STEADY / FULL if self.kind == "full" else 1)
        return self.load.model_copy(
            update={"rate": rate, "seconds": self.load.seconds / 4, "seed": self.load.seed + ROUNDS}
        )


def cases_of(peer: str, counts: Iterable[int], answered_per_s: float, seconds: float) -> list[Case]:
    """Both kinds for each number of adapters; Looper answers so many requests of the full kind."""
    rates = {"full": FULL * answered_per_s, "steady": STEADY * answered_per_s}
    return [
        Case(peer=peer, kind=kind, load=Load(adapters=count, rate=rate, seconds=seconds))
        for count in counts
        for kind, rate in rates.items()
    ]


def cold(first: int) -> list[WorkloadRequest]:
    """One request for each of ``COLD`` adapters from ``first`` on, all at once."""
    return [WorkloadRequest(at_s=0.0, adapter=first + number, prompt=32, answer=16) for number in range(COLD)]


def known(adapters: Iterable[int]) -> list[WorkloadRequest]:
    """The shortest request for each."""
    return [WorkloadRequest(at_s=0.0, adapter=number, prompt=1, answer=1) for number in adapters]
