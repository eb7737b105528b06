"""A Ray of our own on this machine, for as long as a process wants it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray

from looper.platform.domain.errors import LooperError
from looper.serve.deployment.ray_environment import set_for_ray

_CPUS = 1 + max(2, os.cpu_count() or 1)
"""Ray's CPUs are bookkeeping: a skill server holds one, trainers a fraction each, and a task needs one beside them."""


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a Ray that nobody else uses, and leave nothing of it running.

    ``address="local"`` never joins another cluster, whatever addresses lie about on the machine.
    """
    before = set(_children())
    _quieten()
    try:
        _init()
        yield
    finally:
        started = set(_children()) - before
        ray.shutdown()
        _end(started | (set(_children()) - before))


def _init() -> None:
    set_for_ray()
    try:
        ray.init(
            address="local",
            num_cpus=_CPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises plain Exception, RuntimeError and errors of its own for this
        raise LooperError(f"Ray did not start; run the command again when the machine is less busy: {error}") from error


def _quieten() -> None:
    """Ray tells of its execution plans on standard error; who looks for them finds them in its log files."""
    import ray.data  # noqa: F401 (its import sets its logger's level, so that must come first)

    for name in ("ray", "ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _end(processes: set[psutil.Process]) -> None:
    """Ray's processes are asked by ``ray.shutdown``; what has not gone a while later is ended here."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
