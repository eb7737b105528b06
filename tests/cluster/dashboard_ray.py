"""A Ray of its own with its dashboard, as a program: prints the dashboard's address, and ends with its standard input.

Its processes have none of Looper's environment variables for Ray, as on a cluster that somebody else has started.
"""

import sys

import ray

from looper.serve.deployment.loopback import use_loopback_node
from looper.serve.deployment.ray_app import find_free_port


def main() -> None:
    use_loopback_node()
    context = ray.init(
        address="local", num_cpus=4, include_dashboard=True, dashboard_port=find_free_port(), log_to_driver=False
    )
    print(f"http://{context.dashboard_url}", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
