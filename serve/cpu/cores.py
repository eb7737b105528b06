"""Divides a machine's cores between CPU engines and all other processes.

``engine_arguments`` sets an engine's environment with it; the engine's processes and threads read it back. Importable
without torch, Ray or vLLM.

One core is reserved for everything else: the gateway, through which all tokens pass, the process that downloads
adapters, and the engine's own reader threads. On the engine's cores, each of them would slow every step down for all
requests. vLLM reserves one core, too.
"""

import os
from collections.abc import Collection

RESERVED_CORES = 1
"""Number of cores that engines do not compute on."""

BIND_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's environment variable for thread binding: a list of cores, or ``nobind``."""


def engine_cores(cores: Collection[int]) -> list[int]:
    """Return the cores that engines compute on.

    Args:
        cores: All cores of the machine.

    Returns:
        The cores in ascending order. The only core, if there is only one.
    """
    return sorted(cores)[RESERVED_CORES:] or sorted(cores)


def other_cores(cores: Collection[int]) -> set[int]:
    """Return the cores for everything except the engines.

    Args:
        cores: All cores of the machine.

    Returns:
        The reserved cores. The only core, if there is only one.
    """
    return set(sorted(cores)[:RESERVED_CORES])


def format_binding(cores: Collection[int]) -> str:
    """Return the value of ``BIND_VARIABLE`` for an engine that is the only one on its machine.

    Args:
        cores: All cores of the machine.

    Returns:
        The engine's cores, separated by commas.
    """
    return ",".join(map(str, engine_cores(cores)))


def bound_cores() -> list[int]:
    """Return the cores that the threads of this engine are bound to, read from the environment.

    Returns:
        The cores. An empty list, if the threads are not bound.
    """
    return [int(core) for core in os.environ.get(BIND_VARIABLE, "").split(",") if core.isdecimal()]
