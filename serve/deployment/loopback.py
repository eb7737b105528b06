"""Ports of Ray's processes listen on the address of their node, not on all addresses of the machine.

The node of a private Ray has the address 127.0.0.1: ``cluster.local_ray`` sees to that. So nobody else reaches it.
"""

import os
from collections.abc import Callable
from typing import Any

import ray
from ray._private import ray_constants
from ray.serve._private import replica as ray_replica


def use_loopback_node() -> None:
    """Give the node of the Ray that this process starts the address 127.0.0.1. Call it before ``ray.init``.

    It is what Ray does on systems where it has no clusters of several machines. There is no argument for it. Ray's
    processes inherit the variable: on a GPU, the core of an engine connects to this Ray, and would look for it at the
    machine's other address.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"


def bind_replica_to_node() -> None:
    """Let this process's replica listen on the address of its node. Call it in the constructor of a deployment.

    Ray Serve binds the port over which replicas call each other to all addresses, and has no setting for it.
    """
    replica: Any = ray_replica
    add_port = replica.add_port_to_grpc_server
    address_of_node: Callable[[], str] = ray.util.get_node_ip_address

    def add_port_of_node(server: object, address: str) -> int:
        return int(add_port(server, address.replace("[::]", address_of_node())))

    replica.add_port_to_grpc_server = add_port_of_node
