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
    """Of one forward and backward: enough for full speed, and what bounds the memory for activations.

    Also what a newcomer waits for: on two cores, 320 tokens of a 135M model take 1.5 s. In passes of 640, as many take
    15 % less.
    """


def pick_device() -> Device:
    """CUDA with a bfloat16 base where there is a GPU, else the CPU, in float32 unless it multiplies bfloat16 matrices.

    Those units (AMX) take 40 % off a pass; bfloat16 that is emulated would be several times slower.
    """
    if torch.cuda.is_available():
        return Device(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, tokens_at_once=8192)
    in_hardware = torch.cpu.get_capabilities().get("amx_bf16", False)
    return Device(torch.device("cpu"), torch.bfloat16 if in_hardware else torch.float32, tokens_at_once=320)


def use_cores(workers_here: int) -> None:
    """Share this machine's cores between the workers on it. Ray leaves each one thread, whatever it has to itself.

    Two workers of one thread each do a third more than one of two: what is small does not gain from a second thread.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers_here))
