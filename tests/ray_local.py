"""One local Ray for the whole test session."""

import os
from collections.abc import Iterator

import pytest
import ray

from looper.serve import door


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """More CPUs than there are: a server, a trainer and Ray Data's tasks live beside each other in a session."""
    os.environ.setdefault(*door.SETTING)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
