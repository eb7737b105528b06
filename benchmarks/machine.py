"""Describe the machine that a benchmark's numbers were measured on, for the reports of all benchmarks."""

import os
import platform

import torch


def describe_machine() -> str:
    """Return the number of cores, the architecture and the GPUs as one line of text."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(gpus) or 'no GPU'}"
