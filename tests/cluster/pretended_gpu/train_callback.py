"""Lets the workers of trainers take their CPU for a GPU. Ray Train calls ``PretendGpu`` before it sets a worker up."""

import os
from typing import Any
from unittest.mock import patch

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

MEMORY_BYTES = 2**31
"""Memory of the simulated GPU. Half of it is free."""


class PretendGpu(WorkerGroupCallback):
    """A callback of Ray Train."""

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        ray.get([worker.execute_async(pretend_for_ever) for worker in workers])
        return {}


def pretend_for_ever() -> None:
    """Simulate a GPU in this process: for Ray Train, which sets its worker up, and for Looper's trainer in it."""
    os.environ["DS_ACCELERATOR"] = "cpu"

    import torch
    import torch.distributed as dist

    # Before torch says that there is a GPU: bitsandbytes would look for it when it is imported.
    from looper.jobs.consolidation.training import trainer, training_run  # noqa: F401
    from tests.jobs.consolidation.pretended_gpu import pretended_gpu

    init_process_group, run_worker = dist.init_process_group, training_run._run_worker

    def init_gloo(*, backend: str, **kwargs: Any) -> None:
        assert backend == "nccl"
        init_process_group(backend="gloo", **kwargs)

    def run_worker_on_gpu(config: dict[str, Any]) -> None:
        with pretended_gpu():
            run_worker(config)

    patch.object(dist, "init_process_group", init_gloo).start()
    patch.object(training_run, "_run_worker", run_worker_on_gpu).start()
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda _: (MEMORY_BYTES // 2, MEMORY_BYTES),
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
    }.items():
        patch.object(torch.cuda, name, value).start()
