"""A cluster of two nodes on this machine, one of which is killed under load; prints what became of the requests.

``python -m tests.serve.two_nodes FOLDER``: a process of its own, as a test session has a Ray already.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from looper.serve.deployment.ray_environment import set_for_ray
from tests.serve.live import serving
from tests.serve.test_killed import under_load


def main() -> None:
    set_for_ray()
    # Each has room for one engine; what serves besides needs none.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    def strike() -> int:
        cluster.remove_node(node, allow_graceful=False)
        return 1

    try:
        with serving(Path(sys.argv[1]), replicas=2) as live:
            print(json.dumps(under_load(live, "two-nodes", strike, 60)))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
