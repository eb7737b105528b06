"""The skill server: Ray Serve LLM's ``LLMServer`` around one vLLM engine, with Looper's adapter pager.

``skill_replica.SkillReplica`` creates it and calls ``generate`` for each request. Chat templates, tool parsing and
streaming are vLLM's. The hook that loads adapters is replaced by the pager, and the admission queue stands
before the engine. The engine identifies adapters by digest and knows nothing of tenants.

Imports vLLM, and so is imported only in a replica's own process.
"""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import IO, Any, Self

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GenerationError
from vllm.lora.request import LoRARequest

from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.errors import LooperError, Overloaded
from looper.serve.cache.disk_cache import DiskCache, claim_folder
from looper.serve.cache.download_process import start_downloader
from looper.serve.cache.pager import Pager
from looper.serve.cache.staging import AdapterStagingClient
from looper.serve.engine import tool_parsers
from looper.serve.engine.admission import AdmissionQueue
from looper.serve.engine.beam_search import inherit_priority, with_priority
from looper.serve.engine.cache_salt import derive_cache_salt, generate_key
from looper.serve.engine.deadline import Deadline
from looper.serve.engine.engine_setup import EngineSetup
from looper.serve.engine.grammars import (
    GrammarChecker,
    find_constraint,
    refuse_during_generation,
    tool_adjuster,
)
from looper.serve.engine.token_meter import TokenMeter
from looper.serve.engine.vllm_requests import build_vllm_request
from looper.serve.error_responses import RequestRefused, adapter_error_response, looper_error_response
from looper.serve.protocol import (
    AdmissionInfo,
    EngineOutput,
    EngineRequest,
    FullResponse,
    StreamChunk,
    TokenCounts,
)
from looper.serve.tracing import span

log = logging.getLogger(__name__)


class SkillServer(LLMServer):
    """One vLLM engine with its adapter pager and its admission queue. Create it with ``open``."""

    engine: Any
    """Ray Serve LLM's wrapper of vLLM's engine."""
    _pager: Pager[LoRARequest]
    _admission_queue: AdmissionQueue
    _grammars: GrammarChecker
    _token_meter: TokenMeter
    _vocab_size: int
    _salt_key: bytes
    _folder_lock: IO[bytes]

    @classmethod
    async def open(cls, setup: EngineSetup, predecessor: Self | None = None) -> Self:
        """Start an engine. This takes as long as vLLM takes to start.

        Args:
            setup: How to start it.
            predecessor: A server of this process whose engine died. Its adapters on disk are taken over.

        Returns:
            The running server.
        """
        settings, engine = setup.settings, setup.engine
        parsers = read_base_manifest(setup.model_dir).parsers
        if parsers.tool_call_parser and parsers.tool_call_start:
            tool_parsers.register(parsers.tool_call_parser, parsers.tool_call_start)
        config = LLMConfig(
            model_loading_config={"model_id": settings.base, "model_source": str(setup.model_dir)},
            engine_kwargs=engine.arguments,
            accelerator_config={"kind": setup.device},
            callback_config={"callback_class": _LocalModelCallback},
            # By default, tokens wait for up to 50 ms to be batched, including the first.
            experimental_configs={"stream_batching_interval_ms": 0},
        )
        server = cls.sync_init(config, engine_cls=_SingleProcessEngine if setup.device == "cpu" else VLLMEngine)
        assert isinstance(server, cls)
        if predecessor is None:
            # The server holds the lock for its lifetime: another replica on this machine claims another folder.
            folder, server._folder_lock = claim_folder(settings.home / "adapters")
            server._grammars = await GrammarChecker.start(setup.model_dir, engine.other_cores)
        await server.start()  # type: ignore[no-untyped-call]
        client = server.client
        host_memory = await AdapterStagingClient.connect(client, server.engine._oai_models.lora_requests)
        if predecessor is None:
            download = start_downloader(settings, setup.pool, setup.model_dir, setup.device, folder, engine.other_cores)
            server._pager = Pager(
                DiskCache(download, folder),
                host_memory,
                disk_capacity=setup.cache_sizes.disk_adapters,
                host_memory_capacity=setup.cache_sizes.host_memory_adapters,
            )
        else:
            server._folder_lock, server._pager = predecessor._folder_lock, predecessor._pager
            server._pager.replace_host_memory(host_memory)
            server._grammars = predecessor._grammars
        server._grammars.attach(client.engine_core)
        server._admission_queue = AdmissionQueue(settings.serve.seats, setup.cache_sizes.slots)
        inherit_priority(client)
        server._token_meter = TokenMeter(client.output_processor)
        server._vocab_size = client.model_config.get_vocab_size()
        server._salt_key = generate_key()
        return server

    @property
    def client(self) -> Any:
        """The asynchronous engine client of vLLM."""
        return self.engine._engine_client

    async def generate(self, engine_request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Run a request: validate it, load its adapter, wait for admission, and stream the engine's output.

        Args:
            engine_request: The request.

        Yields:
            Outputs in the order that ``EngineOutput`` describes. Errors are a ``FullResponse``.
        """
        deadline = Deadline(engine_request.max_wait_s)
        try:
            request: Any = build_vllm_request(engine_request.endpoint, engine_request.body, self._vocab_size)
        except RequestRefused as error:
            yield error.response
            return
        tenant, digest = engine_request.tenant_hash, engine_request.digest
        request.cache_salt = derive_cache_salt(self._salt_key, tenant, request.cache_salt)
        pager, queue = self._pager, self._admission_queue
        try:
            constraint = find_constraint(request, tool_adjuster(self.engine._oai_serving_chat))
            async with AsyncExitStack() as stack:
                await deadline.enter(stack, self._grammars.ready(constraint, tenant), "compiling the grammar")
                tier, started_s = pager.find_tier(digest) if digest else None, time.perf_counter()
                with span("adapter", engine_request.trace_context, tier=tier):
                    if digest:
                        await deadline.enter(stack, pager.pin(digest, tenant), "loading the adapter")
                loaded_s = time.perf_counter()
                with span("queue", engine_request.trace_context):
                    admission = queue.admit(
                        tenant,
                        digest,
                        engine_request.estimated_prompt_tokens,
                        num_seqs=engine_request.num_seqs,
                        max_wait_s=deadline.remaining_s,
                    )
                    queued_request = await stack.enter_async_context(admission)
                wait_s = time.perf_counter() - loaded_s
                yield AdmissionInfo(tier, loaded_s - started_s, wait_s, queue.slot_usage, pager.take_eviction_counts())
                stack.enter_context(span("engine", engine_request.trace_context))
                request.priority = queued_request.priority
                endpoint = self.chat if engine_request.endpoint == "chat" else self.completions
                vllm_outputs = with_priority(await endpoint(request), queued_request.priority)
                outputs = await stack.enter_async_context(aclosing(self._token_meter.count(vllm_outputs)))
                generated = 0
                async for output, tokens in outputs:
                    queue.record_generated(queued_request, tokens.generated - generated)
                    generated = tokens.generated
                    # A stream comes in batches: lists of events, or a list of the one error.
                    for item in output if isinstance(output, list) else [output]:
                        if refusal := refuse_during_generation(constraint, item):
                            yield refusal
                            return
                        yield StreamChunk(item, tokens) if isinstance(item, str) else _full_response(item, tokens)
        except RequestRefused as refused:
            yield refused.response
        except GenerationError as error:
            if (refusal := refuse_during_generation(constraint, error)) is None:
                raise
            yield refusal
        except Overloaded as error:
            yield looper_error_response(error)
        except LooperError as error:
            log.error("%s", error)
            yield adapter_error_response(digest or "", error)

    async def prefetch(self, digest: str, hold_s: float) -> None:
        """Load an adapter into host memory. A failure is logged and not raised.

        Args:
            digest: Digest of the adapter.
            hold_s: Minimum time for which it stays there, in seconds.
        """
        try:
            await self._pager.prefetch(digest, hold_s)
        except LooperError as error:
            log.warning("%s", error)

    def list_adapters(self) -> list[str]:
        """Return the digests of the adapters in host memory, the most recently used first."""
        return self._pager.host_memory.list_entries()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load for ``routing.autoscaling``. Ray Serve calls this method periodically.

        Returns:
            The fields of ``EngineLoad``, by name.
        """
        return self._admission_queue.report_load()

    async def _maybe_resolve_lora_from_multiplex(self) -> None:
        """Do nothing: ``generate`` has loaded the adapter."""

    async def _start_engine(self) -> None:
        # Without Ray's telemetry: its actor is one more process that imports vLLM before the first request.
        await self.engine.start()


class _LocalModelCallback(CallbackBase):
    """Skips the task that would look for the base model on a hub: it is on this machine's disk."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class _SingleProcessEngine(VLLMEngine):
    """Runs the only worker in the engine's process. On CPUs, Ray Serve LLM asks for a separate process.

    vLLM uses the process to bind its threads to cores. OMP_NUM_THREADS alone does as well on a machine without other
    engines, and vLLM is imported once less at the start.
    """

    def _start_async_llm_engine(self, engine_args: Any, engine_config: Any, placement_group: Any) -> Any:
        engine_config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(engine_args, engine_config, placement_group)


def _full_response(output: Any, tokens: TokenCounts) -> FullResponse:
    status = output.error.code if isinstance(output, ErrorResponse) else 200
    return FullResponse(status, output.model_dump_json().encode(), tokens=tokens)
