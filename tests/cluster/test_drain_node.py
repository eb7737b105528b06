"""A node knows whether replicas of Looper still run on it."""

import subprocess

from looper.cluster.drain_node import count_replicas


def test_replicas_of_looper_are_counted_by_the_names_that_ray_gives_them() -> None:
    before = count_replicas()
    names = ("ray::ServeReplica:looper:gateway.handle_request", "ray::ServeReplica:another:gateway", "ray::IDLE")
    processes = [subprocess.Popen([name], executable="/bin/cat", stdin=subprocess.PIPE) for name in names]
    try:
        assert count_replicas() == before + 1
    finally:
        for process in processes:
            process.communicate(b"")
