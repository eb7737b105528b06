"""The process that runs an engine's model, as its replica starts it."""

import os
import subprocess
import sys

import ray

from looper.serve.engine.core_process import fork_cores

JOIN = "import ray; ray.init(log_to_driver=False); print(ray.get_runtime_context().gcs_address)"
"""What vLLM does in a core on GPUs, whose workers are actors of Ray."""


def test_a_core_joins_the_ray_of_its_replica(ray_local: None) -> None:
    @ray.remote(num_cpus=0)
    def join_from_a_child() -> str:
        fork_cores()
        joined = subprocess.check_output([sys.executable, "-c", JOIN], text=True, env=os.environ)
        return joined.splitlines()[-1]

    assert ray.get(join_from_a_child.remote()) == ray.get_runtime_context().gcs_address
