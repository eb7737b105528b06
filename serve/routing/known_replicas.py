"""What a process knows of the replicas that it sends requests to.

The routers write it down; ``engine_client`` in gateways and ``proxy_errors`` in the HTTP proxy read it.

Not in the module of the router: Ray Serve copies that module's content into each router that it creates.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

APP_NAME = "looper"
"""Name of Looper's application in Ray Serve."""

GATEWAY_NAME = "gateway"
"""Name of the gateways' deployment in Ray Serve."""

_counts: dict[str, Callable[[], int]] = {}  # return the number of running replicas, by deployment
_avoided_until: dict[str, float] = {}  # time until which a replica gets no requests if another can get them, by id
_nodes: dict[str, Callable[[], Mapping[str, str]]] = {}  # return the node of each running replica, by deployment
_unaccepted: set[int] = set()  # requests that no replica has accepted yet, by ``id``
_leaving: frozenset[str] = frozenset()  # nodes that will go: nothing is prefetched there
_left: frozenset[str] = frozenset()  # those of them that get no requests either


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


def watch_nodes(deployment: str, nodes: Callable[[], Mapping[str, str]]) -> None:
    """Let ``find_replicas_on`` know a deployment. The router does so when it has been told of a replica.

    Args:
        deployment: Name of the deployment.
        nodes: Returns the id of the node of each of its running replicas, by the replica's id, at any time.
    """
    _nodes[deployment] = nodes


def find_replicas_on(deployment: str, nodes: Collection[str]) -> list[str]:
    """Return the running replicas of a deployment on some nodes.

    Args:
        deployment: Name of the deployment.
        nodes: Ids of the nodes.

    Returns:
        Ids of the replicas, as far as this process knows.
    """
    found = _nodes.get(deployment)
    return [replica for replica, node in found().items() if node in nodes] if found else []


def leave_nodes(leaving: Collection[str], left: Collection[str]) -> None:
    """Use replicas on other nodes, as far as there are any.

    Args:
        leaving: Ids of all nodes that will go. Nothing is prefetched there.
        left: Ids of those of them that get no requests either.
    """
    global _leaving, _left
    _leaving, _left = frozenset(leaving), frozenset(left)


def leaving_nodes() -> frozenset[str]:
    """Return the ids of the nodes that will go."""
    return _leaving


def left_nodes() -> frozenset[str]:
    """Return the ids of the nodes that get no requests if others can get them. The same object until it changes."""
    return _left


@contextmanager
def expecting_acceptance(request: object) -> Iterator[Callable[[], bool]]:
    """Find out whether a replica has accepted a request.

    Args:
        request: An argument of the call. The router gets the same object.

    Yields:
        Returns whether one has.
    """
    _unaccepted.add(id(request))
    try:
        yield lambda: id(request) not in _unaccepted
    finally:
        _unaccepted.discard(id(request))


def record_acceptance(args: Iterable[object]) -> None:
    """Record that a replica has accepted a request. The router does so.

    Args:
        args: Arguments of the call.
    """
    for arg in args:
        _unaccepted.discard(id(arg))
