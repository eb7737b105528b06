"""The one place that picks device, number format, threads and how much goes through the base at once."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """``dtype`` is the frozen base model's; adapters and their optimiser are always float32."""

    place: torch.device
    dtype: torch.dtype
    tokens_at_once: int
    """Of one forward and backward: enough for full speed, and what bounds the memory for activations."""


def pick_device() -> Device:
    """CUDA with a bfloat16 base where there is a GPU, else the CPU in float32: there, all but products is slower in bfloat16."""
    if torch.cuda.is_available():
        return Device(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, tokens_at_once=8192)
    return Device(torch.device("cpu"), torch.float32, tokens_at_once=1024)


def use_machine(workers_here: int) -> None:
    """Have this process use what a machine with so many workers has for each.

    Its share of the cores, since Ray leaves each worker one thread, whatever it has to itself. And the units that
    multiply bfloat16 matrices (AMX), where the CPU has them: factors are rounded to bfloat16, in which most bases are
    published anyway, sums are float32, and products take less than half the time.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers_here))
    if torch.cpu.get_capabilities().get("amx_bf16"):
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
