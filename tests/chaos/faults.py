"""What each fault does to the cluster, and how it ends. Every fault has ended when its function returns."""

import contextlib
import random
import time
from collections.abc import Callable

import psutil

from tests.chaos.cluster import ChaosCluster
from tests.chaos.services import Postgres, S3Server

Fault = Callable[[ChaosCluster, random.Random, float], None]
"""Takes the cluster, the generator for details, and how long a fault lasts that does not end by itself, in seconds."""

CLOCK_SKEW_S = 90
"""How far the clocks of half of the processes are moved."""


def _kill(role: str) -> Fault:
    def kill(cluster: ChaosCluster, rng: random.Random, _duration_s: float) -> None:
        victims = cluster.processes()[role]
        if victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(victims).kill()

    return kill


def _freeze(find: Callable[[ChaosCluster], Postgres | S3Server]) -> Fault:
    def freeze(cluster: ChaosCluster, _rng: random.Random, duration_s: float) -> None:
        service = find(cluster)
        service.freeze(True)
        try:
            time.sleep(duration_s)
        finally:
            service.freeze(False)

    return freeze


def _kill_database(cluster: ChaosCluster, _rng: random.Random, duration_s: float) -> None:
    cluster.postgres.kill()
    time.sleep(duration_s / 2)
    cluster.postgres.start()


def _break_network(cluster: ChaosCluster, rng: random.Random, duration_s: float) -> None:
    """Stall or close the connections to the database or the store."""
    proxy = rng.choice([cluster.postgres.proxy, cluster.s3.proxy])
    proxy.set_state(rng.choice(["stalled", "closed"]))
    try:
        time.sleep(duration_s)
    finally:
        proxy.set_state("open")


def _fill_disk(cluster: ChaosCluster, _rng: random.Random, duration_s: float) -> None:
    if cluster.disk is None:
        return
    filler = cluster.disk / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**22))
        time.sleep(duration_s)
    finally:
        filler.unlink()


def _skew_clock(cluster: ChaosCluster, rng: random.Random, duration_s: float) -> None:
    cluster.clock.move(rng.choice([-CLOCK_SKEW_S, CLOCK_SKEW_S]), rng.randrange(2))
    try:
        time.sleep(duration_s)
    finally:
        cluster.clock.move(0, 0)


FAULTS: dict[str, Fault] = {
    "engine killed": _kill("engine"),
    "replica killed": _kill("replica"),
    "gateway killed": _kill("gateway"),
    "proxy killed": _kill("proxy"),
    "controller killed": _kill("controller"),
    "downloader killed": _kill("downloader"),
    "trainer killed": _kill("trainer"),
    "head killed": _kill("head"),
    "database frozen": _freeze(lambda cluster: cluster.postgres),
    "database killed": _kill_database,
    "store frozen": _freeze(lambda cluster: cluster.s3),
    "network broken": _break_network,
    "disk full": _fill_disk,
    "clock skewed": _skew_clock,
}
"""All faults by name."""

LOSES_CONNECTIONS = {"proxy killed", "head killed"}
"""Faults that end the process which holds the clients' connections."""
