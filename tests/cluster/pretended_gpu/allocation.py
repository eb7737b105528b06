"""Reads how a running cluster's resources are allocated, in a process of its own: a process can join one Ray only."""

import json
import os
import subprocess
import sys
from typing import Any


def read(address: str) -> dict[str, Any]:
    """Return the cluster's free GPUs, and the resources of each placement group's bundles.

    Args:
        address: Address of the cluster's GCS, on the loopback interface.
    """
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [sys.executable, "-m", __name__, address]
    allocated: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment, text=True))
    return allocated


def main(address: str) -> None:
    """Print what ``read`` returns, as JSON."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    groups = ray.util.placement_group_table().values()  # type: ignore[no-untyped-call]
    created = [list(group["bundles"].values()) for group in groups if group["state"] == "CREATED"]
    free = ray.available_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    print(json.dumps({"free": free, "groups": created}))


if __name__ == "__main__":
    main(sys.argv[1])
