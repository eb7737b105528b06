"""The skill server: Ray Serve LLM's server around one vLLM engine, with the hook replaced that brings adapters in.

vLLM's validation, templates, tool parsing and streaming stay vLLM's. The engine knows an adapter by its digest, and
nothing of tenants. Imports vLLM: loaded in a replica's own process only.
"""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any, Self

from pydantic import BaseModel, ValidationError
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest

from looper.platform.domain.errors import (
    CorruptAdapter,
    LooperError,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from looper.platform.settings import PoolSettings, Settings
from looper.serve.admission import AHEAD, IN_TURN, Admission
from looper.serve.cache_salt import new_key, tenant_salt
from looper.serve.disk import Disk, claim_folder
from looper.serve.engine import Device, EngineSettings
from looper.serve.loader import start_loader
from looper.serve.pager import Pager
from looper.serve.protocol import BYTES_PER_TOKEN, Ask, Call, Opening, Reply, Whole, error
from looper.serve.request_bounds import check_bounds, count_sequences
from looper.serve.staging import Staged
from looper.serve.tiers import Tiers
from looper.serve.tracing import span

log = logging.getLogger(__name__)

_REQUESTS: dict[Call, type[BaseModel]] = {"chat": ChatCompletionRequest, "completions": CompletionRequest}


class SkillServer(LLMServer):
    """One vLLM engine and the pager of its adapters. Make it with ``open``."""

    engine: Any
    _pager: Pager[LoRARequest]
    _admission: Admission
    _vocab_size: int
    _most_sequences: int
    _salt_key: bytes
    _folder_lock: IO[bytes]

    @classmethod
    async def open(
        cls,
        settings: Settings,
        pool: PoolSettings,
        room: Tiers,
        model_dir: Path,
        device: Device,
        engine: EngineSettings,
    ) -> Self:
        """Start an engine on the base model in ``model_dir``; takes as long as vLLM takes to start."""
        config = LLMConfig(
            model_loading_config={"model_id": settings.base, "model_source": str(model_dir)},
            engine_kwargs=engine.arguments,
            accelerator_config={"kind": device},
            callback_config={"callback_class": _LocalModel},
            experimental_configs={"stream_batching_interval_ms": 0},  # else tokens wait for up to 50 ms, the first too
        )
        server = cls.sync_init(config, engine_cls=_OneProcess if device == "cpu" else VLLMEngine)
        assert isinstance(server, cls)
        # The lock is the server's for life: another replica on this machine takes another folder.
        folder, server._folder_lock = claim_folder(settings.home / "adapters")
        await server.start()  # type: ignore[no-untyped-call]
        server._pager = Pager(
            Disk(start_loader(settings, pool, model_dir, device, folder, engine.others), folder),
            await Staged.open(server.engine._engine_client, server.engine._oai_models.lora_requests),
            on_disk=room.on_disk,
            in_memory=room.in_memory,
        )
        # A request that needs more seats than there are would wait for ever.
        server._most_sequences = settings.serve.max_num_seqs
        server._admission = Admission(settings.serve.max_num_seqs, room.slots)
        server._vocab_size = server.engine._engine_client.model_config.get_vocab_size()
        server._salt_key = new_key()
        return server

    async def answer(self, ask: Ask) -> AsyncGenerator[Reply, None]:
        """Answer one request, when its turn has come."""
        try:
            request: Any = _REQUESTS[ask.call].model_validate(ask.body)
        except ValidationError as invalid:
            yield _invalid(invalid)
            return
        except VLLMValidationError as invalid:  # no ValueError, so pydantic lets it through
            yield error(400, str(invalid), param=invalid.parameter)
            return
        if wrong := check_bounds(request, self._vocab_size, self._most_sequences):
            yield wrong
            return
        request.cache_salt = tenant_salt(self._salt_key, ask.tenant, request.cache_salt)
        seats = count_sequences(request)
        pager, line, now = self._pager, self._admission, time.perf_counter
        reads = len(str(ask.body)) // BYTES_PER_TOKEN
        tier, came = pager.tier(ask.digest) if ask.digest else None, now()
        try:
            async with AsyncExitStack() as held:
                with span("adapter", ask.trace, tier=tier):
                    if ask.digest:
                        await held.enter_async_context(pager.memory.pin(ask.digest))
                loaded = now()
                with span("queue", ask.trace):
                    place = line.turn(ask.tenant, ask.digest, reads, seats=seats, within_s=ask.within_s)
                    turn = await held.enter_async_context(place)
                yield Opening(tier, loaded - came, now() - loaded, line.slots_taken, pager.newly_evicted())
                held.enter_context(span("engine", ask.trace))
                request.priority = AHEAD if turn.ahead else IN_TURN
                replies = await (self.chat(request) if ask.call == "chat" else self.completions(request))
                async for reply in replies:
                    # Streamed answers come in batches: lists of events, or of the one error there is.
                    for item in reply if isinstance(reply, list) else [reply]:
                        line.generated(turn, _tokens(item))
                        yield item if isinstance(item, str) else _whole(item)
        except Overloaded as full:
            yield error(503, str(full), code="overloaded", retry_after_s=full.retry_after_s)
        except LooperError as fault:
            log.error("%s", fault)
            yield _fault(ask.digest, fault)

    async def prefetch(self, digest: str, hold_s: float) -> None:
        try:
            await self._pager.prefetch(digest, hold_s)
        except LooperError as fault:
            log.warning("%s", fault)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._admission.report()

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        """Nothing: ``answer`` has seen to the adapter."""

    async def _start_engine(self) -> None:
        # Without Ray's telemetry, whose actor is one more process that imports vLLM before the first request.
        await self.engine.start()


class _LocalModel(CallbackBase):
    """The base model is on this machine's disk: without the task that would look for it on a hub."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class _OneProcess(VLLMEngine):
    """Runs the only worker inside the engine's process, where Ray Serve LLM asks for a process of its own on CPU.

    vLLM does so to bind its threads to cores; OMP_NUM_THREADS alone does as well on a machine of our own, and starting
    takes one import of vLLM less.
    """

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        engine_config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(engine_args, engine_config, placement_group)


def _tokens(reply: Any) -> int:
    """About how many were generated for it: one for each event, or what vLLM counted."""
    if isinstance(reply, str):
        return reply.count("data: ")
    usage = getattr(reply, "usage", None)
    return usage.completion_tokens or 0 if usage else 0


def _whole(answer: Any) -> Whole:
    status = answer.error.code if isinstance(answer, ErrorResponse) else 200
    return Whole(status, answer.model_dump_json().encode())


def _invalid(invalid: ValidationError) -> Whole:
    first = invalid.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return error(400, f"{where}: {first['msg']}" if where else first["msg"], param=where or None)


def _fault(digest: str | None, fault: LooperError) -> Whole:
    """What the client hears when a version cannot be served: the digest, and none of the store's addresses."""
    match fault:
        case CorruptAdapter():
            return error(500, f"version {digest} is corrupt in the object store", code="corrupt_adapter")
        case NotFound():
            return error(500, f"version {digest} is not in the object store", code="missing_adapter")
        case StoreUnavailable():
            return error(503, f"version {digest} cannot be loaded now: try again", code="store_unavailable")
        case _:
            return error(500, str(fault), code="unservable_adapter")
