"""Runs a cluster of two nodes on this machine, kills one under load, and prints the outcomes of the requests.

``python -m tests.serve.two_nodes FOLDER``: it is a process of its own, because a test session has a Ray already.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from looper.serve.deployment.ray_environment import set_ray_environment
from tests.serve.live import run_server
from tests.serve.test_killed import run_load


def main() -> None:
    set_ray_environment()
    # Each node has a CPU for one engine. The gateway needs none.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill_node() -> int:
        cluster.remove_node(node, allow_graceful=False)
        return 1

    try:
        with run_server(Path(sys.argv[1]), replicas=2) as live:
            print(json.dumps(run_load(live, "two-nodes", kill_node, 60)))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
