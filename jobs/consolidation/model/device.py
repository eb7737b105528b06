"""The only place that chooses device, number format, thread count and the number of tokens per pass.

Every process that loads a ``SharedBase`` calls ``pick_device``.
"""

import os
from dataclasses import dataclass

import torch

GPU_TOKENS_PER_PASS = 8192
"""Tokens of a pass at which a GPU is at full speed."""

CPU_TOKENS_PER_PASS = 640
"""Tokens of a pass at which two cores are near full speed."""


@dataclass(frozen=True)
class Device:
    """Where the frozen base model is, and how it computes."""

    torch_device: torch.device
    """Device of the base model, the adapters and their optimizers."""
    dtype: torch.dtype
    """Number format of the frozen base model. Adapters and their optimizers are always float32."""
    max_tokens_per_pass: int
    """Tokens of one forward and backward pass. Enough for full speed; it bounds the memory for activations.

    It also bounds how long a new member waits: on two cores, 640 tokens of a 135M model take about 2 s. Passes of 320
    tokens take 15 to 40 % more time for the same number of tokens.
    """
    attention_dtype: torch.dtype = torch.float32
    """Number format in which attention computes. On a CPU, short windows take twice as long in bfloat16."""


def pick_device() -> Device:
    """Choose the device of this process.

    With a GPU, the base model is bfloat16 on the GPU. Without one, it is float32 on the CPU. Where a CPU multiplies
    bfloat16 matrices in hardware (AMX), that would halve the time of a pass, but more was forgotten (decision 9).

    Returns:
        The device, its number format and its tokens per pass.
    """
    if torch.cuda.is_available():
        return Device(
            torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, GPU_TOKENS_PER_PASS, torch.bfloat16
        )
    return Device(torch.device("cpu"), torch.float32, CPU_TOKENS_PER_PASS)


def set_thread_count(workers_on_host: int) -> None:
    """Give each worker on this machine an equal share of the cores. Ray leaves each worker one thread.

    Two workers with one thread each process a third more than one worker with two threads, because small operations do
    not gain from a second thread.

    Args:
        workers_on_host: Number of workers that share this machine's cores.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers_on_host))
