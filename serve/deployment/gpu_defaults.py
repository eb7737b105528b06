"""Fits what the settings leave open to the cluster's GPUs, before anything is deployed on them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError

from looper.platform.domain.errors import LooperError
from looper.platform.settings import ServeSettings, Settings
from looper.platform.settings.gpu_plan import GpuPlan, require_type
from looper.serve.cache.gpu_budgets import GpuMachine, fit_to_gpu

MEASURING_TIMEOUT_S = 120.0
"""Maximum time to measure a machine with GPUs, in seconds."""


def fit_to_gpus(settings: Settings, folders: Mapping[str, Path], gpus: GpuPlan) -> Settings:
    """Return the settings with values that fit the connected Ray cluster's GPUs, if there are any.

    Args:
        settings: Settings of the cluster.
        folders: Folders of the base models, by name.
        gpus: How the GPUs are divided.

    Returns:
        Settings in which ``max_num_seqs`` and the room for adapters have values. Without GPUs, the same settings.

    Raises:
        InvalidInput: The base model does not fit.
        LooperError: No GPU is free.
    """
    if gpus.engine:
        for name, folder in folders.items():
            settings = _fit_first_base(settings.for_base(name), folder, gpus).for_base(settings.base)
    return settings


def _fit_first_base(settings: Settings, model_dir: Path, gpus: GpuPlan) -> Settings:
    serve, fitted = settings.serve, dict[int, dict[str, Any]]()
    for pool in serve.all_pools:
        share = gpus.engine_share(pool)
        # The process ends with its only call: torch keeps hundreds of MB of the GPU for as long as it lives.
        measure: Any = ray.remote(
            num_cpus=0, num_gpus=share, resources=require_type(pool.accelerator_type), max_calls=1
        )(_measure_machine)
        measured = measure.remote(settings.home)
        try:
            machine = ray.get(measured, timeout=MEASURING_TIMEOUT_S)
        except GetTimeoutError as error:
            ray.cancel(measured)
            raise LooperError(f"no GPU was free within {MEASURING_TIMEOUT_S:g} s: others use all of them") from error
        if machine is None:
            return settings
        fitted[pool.max_lora_rank] = fit_to_gpu(serve, pool, share, model_dir, machine)
    return settings.model_copy(update={"serve": apply_fits(serve, fitted)})


def apply_fits(serve: ServeSettings, fitted: Mapping[int, Mapping[str, Any]]) -> ServeSettings:
    """Return settings with the values that were chosen for each pool.

    Args:
        serve: Settings of the endpoint.
        fitted: What ``fit_to_gpu`` chose, by the maximum rank of the pool.

    Returns:
        The settings. ``max_num_seqs`` is one for all pools, so the smallest counts.
    """
    seqs = [chosen["max_num_seqs"] for chosen in fitted.values() if "max_num_seqs" in chosen]
    budgets = {
        rank: {name: value for name, value in chosen.items() if name != "max_num_seqs"}
        for rank, chosen in fitted.items()
    }
    pools = tuple(pool.model_copy(update=budgets[pool.max_lora_rank]) for pool in serve.pools)
    common = {"max_num_seqs": min(seqs)} if seqs else {}
    return serve.model_copy(update={"pools": pools, **budgets[serve.max_lora_rank], **common})


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
