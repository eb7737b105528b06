"""Chooses the replica of a request: one that has the adapter, unless it is overloaded.

Used by ``replica_router`` and by the capacity simulator. It is rendezvous hashing (Thaler and Ravishankar, 1998): each
version ranks the replicas in its own order. When a replica comes or goes, only the versions that rank it first move.
The load is bounded (Mirrokni et al., 2018, arXiv 1608.01350): no replica takes much more than the mean load, and no
request waits at one replica while another could run it. So a popular version spreads over as many replicas as it keeps
busy, always the same ones, and shrinks back when its load falls.
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import ceil

MAX_LOAD_FACTOR = 1.25
"""Maximum load of a replica as a multiple of the mean load, while another replica has less.

A replica always takes a quarter of ``max_num_seqs``.
"""


def rank_replicas(digest: str, replicas: Sequence[str]) -> list[str]:
    """Order replicas by a version's preference.

    Args:
        digest: Digest of the version.
        replicas: Ids of the replicas.

    Returns:
        The ids, most preferred first. The order is the same in every process.
    """
    return sorted(replicas, key=lambda replica: hashlib.blake2b(f"{digest}@{replica}".encode()).digest())


def select_replicas(digest: str, loads: Mapping[str, int], max_num_seqs: int) -> list[str]:
    """Choose the replicas to try for a request.

    Args:
        digest: Digest of the version, "" for the base model, which every replica has.
        loads: Number of sequences of each replica, by its id.
        max_num_seqs: Number of sequences that a replica runs at a time.

    Returns:
        Ids of replicas, best first.
    """
    if not digest:
        return sorted(loads, key=loads.__getitem__)
    max_load = max(max_num_seqs // 4, ceil(MAX_LOAD_FACTOR * (sum(loads.values()) + 1) / len(loads)))
    candidates = [replica for replica in rank_replicas(digest, list(loads)) if loads[replica] < max_load]
    # Among replicas that can run the request now, the most preferred; otherwise the one with the shortest queue.
    return sorted(candidates, key=lambda replica: max(0, loads[replica] - max_num_seqs + 1))
