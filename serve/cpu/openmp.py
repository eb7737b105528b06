"""Access to the OpenMP threads that PyTorch computes on.

The LoRA kernel runs on these threads, and CPU engines bind them to cores.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def load_openmp_parallel(library_type: type[ctypes.CDLL]) -> Any:
    """Return ``GOMP_parallel`` of the OpenMP library that PyTorch is linked with. It starts a parallel region.

    Args:
        library_type: ``ctypes.CDLL``, or ``ctypes.PyDLL`` to keep the interpreter lock during calls.

    Returns:
        A function with the parameters ``(function, data, threads, flags)``. None, if the library has none.
    """
    # None stands for the process itself: it finds a library that was preloaded.
    for path in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):
        try:
            parallel = library_type(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return parallel
    return None


def bind_threads(cores: Sequence[int]) -> None:
    """Bind the current thread and each OpenMP thread that computes for it to a core of its own.

    Without this, while another process computes on one core, the kernel may leave two of the threads on the same other
    core for half a second, where they take turns waiting for each other in a busy loop. Threads that are started
    afterwards inherit the current thread's core.

    Args:
        cores: The cores. Nothing happens unless their number equals the number of threads.
    """
    parallel = load_openmp_parallel(ctypes.CDLL)
    if parallel is None or len(cores) != torch.get_num_threads():
        return
    remaining = iter(cores)
    bind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: os.sched_setaffinity(0, {next(remaining)}))
    parallel(ctypes.cast(bind, ctypes.c_void_p), None, len(cores), 0)
