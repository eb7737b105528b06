"""Lets the workers of trainers take their CPU for a GPU. Ray Train calls ``PretendGpu`` before it sets a worker up."""

import os
from typing import Any
from unittest.mock import patch

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

MEMORY_BYTES = 2**31


class PretendGpu(WorkerGroupCallback):
    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        ray.get([worker.execute_async(pretend_for_ever) for worker in workers])
        return {}


def pretend_for_ever() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"

    import torch
    import torch.distributed as dist

    from looper.jobs.consolidation.model import nf4, shared_base  # noqa: F401
    from looper.jobs.consolidation.training import trainer, training_run  # noqa: F401
    from tests.jobs.consolidation.pretended_gpu import pretended_gpu

    init, train = dist.init_process_group, training_run._run_worker

    def init_gloo(*, backend: str, **kwargs: Any) -> None:
        assert backend == "nccl"
        init(backend="gloo", **kwargs)

    def train_on_gpu(config: dict[str, Any]) -> None:
        with pretended_gpu():
            train(config)

    patch.object(dist, "init_process_group", init_gloo).start()
    patch.object(training_run, "_run_worker", train_on_gpu).start()
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "empty_cache": lambda: None,
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
        "mem_get_info": lambda _: (MEMORY_BYTES // 2, MEMORY_BYTES),
    }.items():
        patch.object(torch.cuda, name, value).start()
