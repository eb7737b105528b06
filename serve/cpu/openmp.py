"""The threads that PyTorch computes on, entered through their OpenMP itself."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def openmp_parallel(kind: type[ctypes.CDLL]) -> Any:
    """OpenMP's own way into a region, of the library that PyTorch has bound: ``(function, data, threads, flags)``."""
    for library in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):  # None: if one was preloaded
        try:
            parallel = kind(library).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return parallel
    return None


def keep_apart(cores: Sequence[int]) -> None:
    """Bind each of the threads that compute for this one, and itself, to one of ``cores``, if there are as many.

    Else, while another process computes on one core, the kernel may leave two of them on the other for half a second:
    one waits for the other, awake, in turns. Threads that are started afterwards inherit this one's core.
    """
    parallel = openmp_parallel(ctypes.CDLL)
    if parallel is None or len(cores) != torch.get_num_threads():
        return
    left = iter(cores)
    bind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: os.sched_setaffinity(0, {next(left)}))
    parallel(ctypes.cast(bind, ctypes.c_void_p), None, len(cores), 0)
