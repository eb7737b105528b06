"""Fits what the settings leave open to the cluster's GPUs, before anything is deployed on them."""

import shutil
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError

from looper.platform.domain.errors import LooperError
from looper.platform.settings import PoolSettings, Settings
from looper.platform.settings.gpu_plan import GpuPlan, require_type
from looper.serve.cache.gpu_budgets import GpuMachine, fit_to_gpu

MEASURING_TIMEOUT_S = 120.0
"""Maximum time to measure a machine with GPUs, in seconds."""


def fit_to_gpus(settings: Settings, model_dir: Path, gpus: GpuPlan) -> Settings:
    """Return the settings with values that fit the connected Ray cluster's GPUs, if there are any.

    Args:
        settings: Settings of the cluster.
        model_dir: Folder of the base model.
        gpus: How the GPUs are divided.

    Returns:
        Settings in which ``max_num_seqs`` and the room for adapters have values. Without GPUs, the same settings.

    Raises:
        InvalidInput: The base model does not fit.
        LooperError: No GPU is free.
    """
    if not gpus.engine:
        return settings
    serve, fitted = settings.serve, {}
    for pool in serve.all_pools:
        options = {"num_cpus": 0, "num_gpus": gpus.engine_share(pool), "resources": require_type(pool.accelerator_type)}
        measured = ray.remote(_measure_machine).options(**options).remote(settings.home)
        try:
            machine = ray.get(measured, timeout=MEASURING_TIMEOUT_S)
        except GetTimeoutError as error:
            raise LooperError(f"no GPU was free within {MEASURING_TIMEOUT_S:g} s: others use all of them") from error
        if machine is None:
            return settings
        fitted[pool.max_lora_rank] = fit_to_gpu(serve, pool, gpus.engine_share(pool), model_dir, machine)
    seqs = [chosen.pop("max_num_seqs") for chosen in fitted.values() if "max_num_seqs" in chosen]
    update: dict[str, Any] = {"pools": tuple(_fit(pool, fitted) for pool in serve.pools)} | fitted[serve.max_lora_rank]
    if seqs:
        update["max_num_seqs"] = min(seqs)
    return settings.model_copy(update={"serve": serve.model_copy(update=update)})


def _fit(pool: PoolSettings, fitted: dict[int, dict[str, Any]]) -> PoolSettings:
    return pool.model_copy(update=fitted[pool.max_lora_rank])


def _measure_machine(home: Path) -> GpuMachine | None:
    """Measure the machine of this process. None, if torch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    here = ray.get_runtime_context().get_node_id()
    folder = next(each for each in (home, *home.parents) if each.exists())
    return GpuMachine(
        gpu_bytes=torch.cuda.get_device_properties(0).total_memory,
        gpus=int(next(node["Resources"]["GPU"] for node in ray.nodes() if node["NodeID"] == here)),  # type: ignore[no-untyped-call]
        memory_bytes=psutil.virtual_memory().available,
        disk_bytes=shutil.disk_usage(folder).free,
    )
