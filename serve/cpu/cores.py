"""Which of a machine's cores CPU engines compute on. Plain arithmetic, importable without torch, Ray or vLLM.

One is left to all else: the gateway, through which all tokens go, the loader, and the engine's own threads that read.
On the engine's cores each of them would make everyone's step longer. vLLM reserves one, too.
"""

import os
from collections.abc import Collection

RESERVED = 1

BIND = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's own variable, for engines that it starts in another way: cores, or that threads are not bound to any."""


def engines(cores: Collection[int]) -> list[int]:
    """Those of ``cores`` that engines compute on: all, if there is only one."""
    return sorted(cores)[RESERVED:] or sorted(cores)


def others(cores: Collection[int]) -> set[int]:
    """Those that all else has: all, if there is only one."""
    return set(sorted(cores)[:RESERVED])


def to_bind(cores: Collection[int]) -> str:
    """The value of ``BIND`` for an engine that has ``cores`` to itself."""
    return ",".join(map(str, engines(cores)))


def bound() -> list[int]:
    """The cores that this engine's threads are to be bound to, by its environment; none, if they are not."""
    return [int(core) for core in os.environ.get(BIND, "").split(",") if core.isdecimal()]
