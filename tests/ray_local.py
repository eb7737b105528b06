"""One local Ray for the whole test session, or for one program."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from tenacity import retry, stop_after_attempt

from looper.serve.deployment.loopback import use_loopback_node
from looper.serve.deployment.ray_environment import set_ray_environment
from tests.planted_secrets import FOLDERS


# Ray gives a node 30 s to start, which are not enough beside the other process of a session that runs five minutes of
# chaos on the same cores.
@retry(stop=stop_after_attempt(5), after=lambda _: ray.shutdown(), reraise=True)
def _start_ray() -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)


@contextmanager
def run_ray() -> Iterator[None]:
    """A local Ray within the context. More CPUs than there are: a server, a trainer and Ray Data's tasks fit beside
    each other.
    """
    set_ray_environment()
    use_loopback_node()
    _start_ray()
    FOLDERS.add(Path(ray._private.worker.global_worker.node.get_logs_dir_path()))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    with run_ray():
        yield
