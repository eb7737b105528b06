"""The one place that picks device, number format and threads."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """``dtype`` is the frozen base model's; adapters and their optimiser are always float32."""

    place: torch.device
    dtype: torch.dtype


def pick_device() -> Device:
    """CUDA with a bfloat16 base where there is a GPU, else the CPU in float32: bfloat16 is slower there, emulated."""
    if torch.cuda.is_available():
        return Device(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16)
    return Device(torch.device("cpu"), torch.float32)


def use_cores(workers_here: int) -> None:
    """Share this machine's cores between its workers. Ray leaves each worker one thread, whatever it has to itself."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers_here))
