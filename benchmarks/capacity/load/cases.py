"""The loads of the capacity benchmark. All peers get the same requests at the same times.

``bench`` measures a peer with each of ``load_cases``; the simulator predicts the same cases.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.workload import LoadSpec, WorkloadRequest

ADAPTER_COUNTS = (1, 5, 8, 64, 512, 2000)
"""Default numbers of adapters, one load after another."""
STEADY_LOAD_FACTOR = 0.6
"""Request rate of the steady load, relative to the rate that Looper sustains under the full load."""
FULL_LOAD_FACTOR = 2.0
"""Request rate of the full load, relative to the rate that Looper sustains; no peer keeps up with it."""
COLD_ADAPTERS = 32
"""Adapters that are requested at the same time, none of which was requested before."""
COLD_TIMEOUT_S = 240.0
"""Time after which clients give up on cold adapters."""
ROUNDS = 3
"""Rounds of each load, each with its own requests; the report has their medians."""
MAX_PREWARMED_ADAPTERS = 1000
"""The most popular adapters of a load, each of which is requested once before the measurement."""
MAX_PREWARM_S = 240.0
"""Time after which these requests stop."""
LOAD_KINDS = ("full", "steady", "cold")
"""Kinds of load, in the order of the report."""


class LoadCase(BaseModel):
    """One load on one peer."""

    model_config = ConfigDict(frozen=True)

    peer: str
    """Name of the peer."""
    load: LoadSpec
    """The requests."""
    kind: str
    """``full`` (more than can be answered, and cut off at the end) or ``steady``."""

    @property
    def name(self) -> str:
        """Name of the case, from which the name of its result file is made."""
        return f"{self.peer}, {self.kind}, {self.load.adapters} adapters"

    @property
    def timeout_s(self) -> float:
        """Seconds from the start of the load after which clients without a complete answer give up."""
        return self.load.seconds if self.kind == "full" else 3 * self.load.seconds

    def with_seed(self, seed: int) -> "LoadCase":
        """Return the same case with other requests.

        Args:
            seed: Seed of the requests; the number of the round.

        Returns:
            The case.
        """
        return self.model_copy(update={"load": self.load.model_copy(update={"seed": seed})})

    def warm_up_load(self) -> LoadSpec:
        """Return a short load of the same kind that the peer can finish, to run before the measured one."""
        rate = self.load.rate * (STEADY_LOAD_FACTOR / FULL_LOAD_FACTOR if self.kind == "full" else 1)
        return self.load.model_copy(
            update={"rate": rate, "seconds": self.load.seconds / 4, "seed": self.load.seed + ROUNDS}
        )


def load_cases(peer: str, counts: Iterable[int], sustained_rate: float, seconds: float) -> list[LoadCase]:
    """Return the full and the steady load for each number of adapters.

    Args:
        peer: Name of the peer.
        counts: Numbers of adapters.
        sustained_rate: Requests per second that Looper answers under a full load.
        seconds: Duration of each load.

    Returns:
        Two cases per number of adapters.
    """
    rates = {"full": FULL_LOAD_FACTOR * sustained_rate, "steady": STEADY_LOAD_FACTOR * sustained_rate}
    return [
        LoadCase(peer=peer, kind=kind, load=LoadSpec(adapters=count, rate=rate, seconds=seconds))
        for count in counts
        for kind, rate in rates.items()
    ]


def cold_requests(first: int) -> list[WorkloadRequest]:
    """Return one request for each of ``COLD_ADAPTERS`` adapters, all at the same time.

    Args:
        first: Number of the first adapter.

    Returns:
        The requests.
    """
    numbers = range(first, first + COLD_ADAPTERS)
    return [WorkloadRequest(arrival_s=0.0, adapter=number, prompt_tokens=32, output_tokens=16) for number in numbers]


def prewarm_requests(adapters: Iterable[int]) -> list[WorkloadRequest]:
    """Return the shortest possible request for each adapter.

    Args:
        adapters: Numbers of the adapters.

    Returns:
        The requests, all at the same time.
    """
    return [WorkloadRequest(arrival_s=0.0, adapter=number, prompt_tokens=1, output_tokens=1) for number in adapters]
