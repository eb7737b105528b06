"""The Ray Serve replica that runs one engine. ``ray_app`` deploys it, and ``engine_client`` calls it.

The skill server, which loads torch and vLLM, is imported only in the replica's own process.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from ray import serve

from looper.basemodel.node_copies import BaseModelSource
from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.private_files import keep_files_private
from looper.platform.settings import PoolSettings, Settings
from looper.serve.cache.cache_sizes import lora_target_modules, plan_cache_sizes
from looper.serve.deployment.loopback import bind_replica_to_node
from looper.serve.deployment.serve_log import keep_serve_log_open
from looper.serve.engine.engine_arguments import Device, build_engine_settings
from looper.serve.engine.engine_setup import EngineSetup
from looper.serve.protocol import EngineDied, EngineOutput, EngineRequest
from looper.serve.tracing import configure_tracing

log = logging.getLogger(__name__)


class SkillReplica:
    """Runs an ``EngineHost``.

    Args:
        settings: Settings of the cluster, with the replica's base model first.
        pool: Settings of the pool that the replica belongs to.
        base: The base model.
        gpu_share: Part of a GPU that the engine has; 0 for a CPU engine.
    """

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, pool: PoolSettings, base: BaseModelSource, gpu_share: float
    ) -> None:
        device: Device = "gpu" if gpu_share else "cpu"
        bind_replica_to_node()
        keep_serve_log_open()
        keep_files_private()
        model_dir = await asyncio.to_thread(base.on_this_node)
        cache_sizes = plan_cache_sizes(settings.serve, pool, model_dir)
        cores = os.sched_getaffinity(0)
        engine = build_engine_settings(
            settings.serve,
            pool,
            cache_sizes.slots,
            lora_target_modules(model_dir),
            device,
            cores,
            read_base_manifest(model_dir).parsers,
            gpu_share,
            is_only_engine=settings.max_engines == 1,
        )
        os.environ.update(engine.environment)
        configure_tracing("looper-engine")
        from looper.serve.engine.engine_host import EngineHost

        replica = serve.get_replica_context().replica_id.unique_id
        setup = EngineSetup(settings, pool, cache_sizes, model_dir, device, engine)
        self._engine = await EngineHost.open(setup, replica)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput | EngineDied, None]:
        """Run a request on the engine.

        Args:
            request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes. Last an ``EngineDied``, if the engine is dead.

        Raises:
            RuntimeError: The engine failed on the request.
        """
        with convert_to_builtin_errors():
            async with aclosing(self._engine.generate(request)) as outputs:
                async for output in outputs:
                    yield output

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Load an adapter. A failure is logged and not raised.

        Args:
            digest: Digest of the version.
            hold_s: Minimum time for which the adapter stays in memory, in seconds.
        """
        with convert_to_builtin_errors():
            await self._engine.prefetch(digest, hold_s)

    async def list_adapters(self) -> list[str]:
        """Return the digests of the adapters in host memory, the most recently used first."""
        return self._engine.list_adapters()

    async def check_health(self) -> None:
        """Raise if the engine is broken. Ray Serve calls it periodically."""
        await self._engine.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the numbers that ``routing/autoscaling.py`` needs. Ray Serve calls it periodically."""
        return await self._engine.record_autoscaling_stats()


@contextmanager
def convert_to_builtin_errors() -> Iterator[None]:
    """Convert exceptions to ``RuntimeError``.

    To unpickle one of vLLM's exceptions, the gateway would have to import vLLM, which takes seconds.

    Yields:
        Nothing.

    Raises:
        RuntimeError: Something was raised; the message has its type and text.
    """
    try:
        yield
    except Exception as error:
        log.exception("the engine failed")
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
