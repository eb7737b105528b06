"""Several machines on one machine, for tests of a cluster: `with Lab(folder, nodes=3) as lab: ...`.

Each node is a set of Linux namespaces with an address, host name, processes, file system and `127.0.0.1` of its own. A
bridge connects the nodes with each other and with a machine for PostgreSQL, S3 and Redis. No machine has a route to
anywhere else, so a test does everything by commands in a node: `lab.nodes[0].run(...)`. Needs root.

`lab.py` has the network, `machine.py` the namespaces, `machine_init.py` the first process of each, `services.py` and
`node.py` what runs in them. What the lab cannot show: nodes share the kernel, the cores, the memory and the disk of one
machine, and their clocks run at one rate.
"""

from tests.cluster.lab.lab import Lab
from tests.cluster.lab.machine import Command, Machine
from tests.cluster.lab.node import Node
from tests.cluster.lab.services import Services

__all__ = ["Command", "Lab", "Machine", "Node", "Services"]
