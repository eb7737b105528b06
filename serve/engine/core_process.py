"""Starts vLLM's engine core, the process that runs the model, by forking a warm process; and watches for its death.

Most of the time for a new core is the import of torch and vLLM. A fork server, which has imported them and done nothing
else, forks in milliseconds, so an engine whose core died is back as soon as the model is loaded. ``engine_host`` uses
both functions.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from multiprocessing import context
from typing import Any

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


class _ForkedCore(context.ForkServerProcess):
    """A process that a fork server has forked. It ends when the fork server ends, as that does with the replica."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._environment = dict(os.environ)  # a fork server has the variables of its own start

    def run(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ.update(self._environment)
        super().run()


class _CoreContext(context.ForkServerContext):
    Process = _ForkedCore


def fork_cores() -> None:
    """Let vLLM fork its cores from a fork server of this process. It is started with the first core.

    In a Ray actor, vLLM would start a new interpreter for each core. It only must not fork the actor itself.
    """
    import ray
    from vllm.v1.engine import utils

    # On GPUs, a core starts its workers as actors of the replica's Ray. Without the address, it starts another Ray.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    core_context = _CoreContext()
    core_context.set_forkserver_preload(["looper.serve.engine.core_imports"])
    utils.get_mp_context = lambda: core_context


def watch_core(engine: Any, on_death: Callable[[], None]) -> None:
    """Call a function as soon as a core of an engine has ended, whatever the reason.

    Args:
        engine: vLLM's asynchronous engine client.
        on_death: Called once, in the event loop of this call.
    """
    loop = asyncio.get_running_loop()
    # Duplicates, because vLLM closes its own.
    sentinels = [os.dup(process.sentinel) for process in engine.engine_core.resources.engine_manager.processes]

    def end() -> None:
        for sentinel in sentinels:
            loop.remove_reader(sentinel)
            os.close(sentinel)
        on_death()

    for sentinel in sentinels:
        loop.add_reader(sentinel, end)


def end_waiting(engine: Any) -> None:
    """Let all requests and calls to the core of a dead engine fail.

    vLLM does so with requests, unless it is shut down first, but never with calls.

    Args:
        engine: vLLM's asynchronous engine client.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    engine.output_processor.propagate_error(EngineDeadError())
    for result in engine.engine_core.utility_results.values():
        if not result.done():
            result.set_exception(EngineDeadError())
