"""What a process knows of the replicas that it sends requests to, shared by ``replica_router`` and ``engine_client``.

Not in the module of the router: Ray Serve copies that module's content into each router that it creates.
"""

import time
from collections.abc import Callable

_counts: dict[str, Callable[[], int]] = {}  # return the number of running replicas, by deployment
_avoided_until: dict[str, float] = {}  # time until which a replica gets no requests if another can get them, by id


def watch(deployment: str, count: Callable[[], int]) -> None:
    """Let ``count_replicas`` know a deployment. The router does so when it has been told of a replica.

    Args:
        deployment: Name of the deployment.
        count: Returns the number of its running replicas at any time.
    """
    _counts[deployment] = count


def count_replicas(deployment: str) -> int | None:
    """Return the number of running replicas of a deployment.

    Args:
        deployment: Name of the deployment.

    Returns:
        The number. None if this process has never known of any: it may not have been told yet.
    """
    count = _counts.get(deployment)
    return count() if count else None


def avoid_replica(replica: str, seconds: float) -> None:
    """Send requests of this process to other replicas for some time, as far as there are others.

    Args:
        replica: Id of the replica.
        seconds: How long, in seconds.
    """
    now = time.monotonic()
    for other in [other for other, until in _avoided_until.items() if until < now]:
        del _avoided_until[other]
    _avoided_until[replica] = now + seconds


def is_avoided(replica: str) -> bool:
    """Return whether a replica is to be avoided now.

    Args:
        replica: Id of the replica.
    """
    return time.monotonic() < _avoided_until.get(replica, 0.0)
