"""What a process knows of the replicas that it sends requests to.

The routers write it down; ``engine_client`` in gateways and ``proxy_errors`` in the HTTP proxy read it.

Not in the module of the router: Ray Serve copies that module's content into each router that it creates.
"""

import time
from collections.abc import Callable, Collection

APP_NAME = "looper"
"""Name of Looper's application in Ray Serve."""

GATEWAY_NAME = "gateway"
"""Name of the gateways' deployment in Ray Serve."""

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


def find_avoided(replicas: Collection[str]) -> set[str]:
    """Return the replicas that are to be avoided now.

    Args:
        replicas: Ids of all replicas.

    Returns:
        Some of them. If all are to be avoided, then without those for the shortest time, which a request has not tried
        yet.
    """
    now = time.monotonic()
    avoided_until = {id: until for id, until in _avoided_until.items() if until > now and id in replicas}
    if len(avoided_until) < len(replicas):
        return set(avoided_until)
    shortest = min(avoided_until.values(), default=0.0)
    return {id for id, until in avoided_until.items() if until > shortest}
