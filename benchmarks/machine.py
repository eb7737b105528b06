"""What a benchmark's numbers were measured on."""

import os
import platform

import torch


def describe() -> str:
    """Cores, architecture and GPUs, in a few words."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(gpus) or 'no GPU'}"
