"""A Ray of our own on this machine, for as long as a process wants it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray

_CPUS = max(2, os.cpu_count() or 1)
"""Ray's CPUs are bookkeeping: a trainer and a skill server hold one each, so that even one core must count as two."""


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a Ray that nobody else uses, and leave nothing of it running.

    ``address="local"`` never joins another cluster, whatever addresses lie about on the machine.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address="local",
        num_cpus=_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        configure_logging=True,
    )
    children = psutil.Process().children(recursive=True)
    try:
        yield
    finally:
        children += psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(children)


def _end(processes: list[psutil.Process]) -> None:
    """Ray's processes are asked by ``ray.shutdown``; what has not gone a while later is ended here."""
    _, alive = psutil.wait_procs(set(processes), timeout=15)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
