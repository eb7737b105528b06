"""A private Ray on this machine for as long as a process needs it.

Used by the head process, by commands that work without a cluster, and by benchmarks and tests.
"""

import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray

from looper.cluster.processes import kill_remaining
from looper.platform.domain.errors import LooperError
from looper.platform.domain.private_files import make_private_folder
from looper.serve.deployment.loopback import use_loopback_node
from looper.serve.deployment.ray_environment import set_ray_environment

_TOKEN = "RAY_AUTH_TOKEN"

_OTHER_RAYS = (
    _TOKEN,
    "RAY_AUTH_TOKEN_PATH",
    "RAY_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_REDIS_ADDRESS",
    "RAY_REDIS_USERNAME",
    "RAY_REDIS_PASSWORD",
    "RAY_external_storage_namespace",
    "RAY_gcs_storage",
    "RAY_gcs_storage_path",
)
"""Environment variables by which Ray finds another cluster, or the place where another one keeps its tables."""


@contextmanager
def local_ray(engines: int = 1) -> Iterator[None]:
    """Start a Ray that no other process uses, and end all its processes afterwards.

    It joins no other cluster and shares no tables with one, whatever the environment or a file of this machine names:
    a pod of KubeRay and a job of Ray have variables that would make it do so. Its token for authentication is its own,
    too: Ray would leave one in the user's home, and every later Ray of that user would silently require it.

    Args:
        engines: Maximum number of engines on it.

    Yields:
        None, while Ray runs.

    Raises:
        LooperError: Ray did not start.
    """
    before = set(_descendants())
    silence_logs()
    outer = {name: os.environ.pop(name, None) for name in _OTHER_RAYS}
    os.environ[_TOKEN] = secrets.token_hex(32)
    try:
        _start_ray(engines)
        yield
    finally:
        os.environ.pop(_TOKEN, None)
        os.environ.update({name: value for name, value in outer.items() if value is not None})
        started = set(_descendants()) - before
        ray.shutdown()
        # ray.shutdown() asks Ray's processes to end, but does not wait for all of them.
        kill_remaining(started | (set(_descendants()) - before), timeout_s=15)


def count_cpus(engines: int) -> int:
    """Return how many CPUs Ray schedules: an engine reserves one, trainers fractions of one, and a task one more.

    Args:
        engines: Maximum number of engines.
    """
    return max(1 + (os.cpu_count() or 1), engines + 2)


def _start_ray(engines: int) -> None:
    set_ray_environment()
    use_loopback_node()
    session_folder = _make_session_folder()
    try:
        ray.init(
            address="local",
            _temp_dir=str(session_folder),
            num_cpus=count_cpus(engines),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises Exception, RuntimeError and errors of its own when it does not start
        raise LooperError(f"Ray did not start; run the command again when the machine is less busy: {error}") from error


def _make_session_folder() -> Path:
    """Return a folder for Ray's logs and sockets that no other user can enter.

    Ray opens this folder and those in it to everybody, so the one around it is closed. The path must be short, because
    those of sockets have at most 107 characters.

    Raises:
        LooperError: Somebody else has a folder of that name.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / f"looper-{os.geteuid()}"
    make_private_folder(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise LooperError(f"{folder} belongs to another user: delete it, or set RAY_TMPDIR to a folder of your own")
    folder.chmod(0o700)
    return folder / "ray"


def silence_logs() -> None:
    """Keep Ray's execution plans off standard error. They are in Ray's log files."""
    import ray.data  # noqa: F401 (its import sets its logger's level, so it must come first)

    for name in ("ray", "ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
