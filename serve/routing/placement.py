"""Where a request goes: to the replica that has its adapter, unless that has too much to do.

Rendezvous hashing (Thaler and Ravishankar, 1998): each version ranks the replicas in an order of its own, and with a
replica that comes or goes, only what it ranked first moves. The load is bounded (Mirrokni et al., 2018, arXiv
1608.01350): no replica takes much more than the mean, and none lets a request wait while another has a free seat. So a
version that is asked for a lot spreads over as many replicas as it keeps busy, always the same ones, and shrinks back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import ceil

SLACK = 1.25
"""Most times the mean load that a replica takes while another has less; a quarter of its seats it always takes."""


def ranked(digest: str, replicas: Sequence[str]) -> list[str]:
    """``replicas`` in the order in which the version prefers them: the same whoever asks."""
    return sorted(replicas, key=lambda replica: hashlib.blake2b(f"{digest}@{replica}".encode()).digest())


def place(digest: str, loads: Mapping[str, int], seats: int) -> list[str]:
    """The replicas to try for a request, the best first.

    ``loads`` is how many requests each replica has, ``seats`` how many one serves at once; without a ``digest``, the
    request is the base model's, which all have.
    """
    if not digest:
        return sorted(loads, key=loads.__getitem__)
    most = max(seats // 4, ceil(SLACK * (sum(loads.values()) + 1) / len(loads)))
    free = [replica for replica in ranked(digest, list(loads)) if loads[replica] < most]
    # Of those with a free seat the most preferred; without any, the least loaded, which is the shortest wait.
    return sorted(free, key=lambda replica: max(0, loads[replica] - seats + 1))
