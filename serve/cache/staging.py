"""The host memory tier: adapters in the memory of vLLM's workers, read by a thread outside the engine's step loop.

vLLM reads and parses an adapter's file in the step loop, when it schedules the first request for the adapter, or when
it has dropped the adapter meanwhile. All other requests wait. Here, the pager stages an adapter before a request for it
is scheduled. Then the step loop only moves tensors into a slot.

There are two sides: ``StagingLoRAManager`` and ``StagingWorkerExtension`` are in each worker. ``AdapterStagingClient``
is in the replica, where the pager calls it.
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Self

import orjson
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.platforms import current_platform

from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.errors import InvalidInput
from looper.serve.cache.adapter_shapes import check_adapter_fits
from looper.serve.cpu.cores import bound_cores
from looper.serve.cpu.kernel_layout import LORA_A_SUFFIX
from looper.serve.cpu.lora_layers import PackedAdapter, SlotPointerLoRAManager, read_packed_lora, use_pointer_slots
from looper.serve.cpu.openmp import bind_threads

SWITCH_INTERVAL_S = 0.0005
"""Python's switch interval in a CPU worker, in seconds. Python's default of 5 ms is a tenth of a step."""

ALL_CORES = os.sched_getaffinity(0)
"""This process's cores before any thread is bound."""


def leave_engine_cores() -> None:
    """Move this thread, and the threads that it starts, off the cores that the engine's threads are bound to."""
    os.sched_setaffinity(0, ALL_CORES - set(bound_cores()) or ALL_CORES)


class StagingLoRAManager(LRUCacheWorkerLoRAManager):  # type: ignore[misc]
    """vLLM's manager of a worker's adapters, which uses staged adapters."""

    if current_platform.is_cpu():
        _manager_cls = SlotPointerLoRAManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of vLLM's manager.

        Args:
            *args: As in vLLM's manager.
            **kwargs: As in vLLM's manager.
        """
        super().__init__(*args, **kwargs)
        self._reader = ThreadPoolExecutor(1, "stage", leave_engine_cores)
        self._staged: dict[int, LoRAModel] = {}

    def create_lora_manager(self, model: Any, vllm_config: Any) -> Any:
        """Replace the model's linear layers with LoRA layers. vLLM calls this once, when it has loaded the model.

        Args:
            model: The base model.
            vllm_config: vLLM's configuration.

        Returns:
            The model with LoRA layers.
        """
        model = super().create_lora_manager(model, vllm_config)
        self._base_layers = read_base_manifest(Path(vllm_config.model_config.model)).layers
        if current_platform.is_cpu():
            # The reader thread must not keep the interpreter lock from the step loop, which takes it a thousand times
            # per step.
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            use_pointer_slots(self._modules)
            bind_threads(bound_cores())
        return model

    @property
    def _modules(self) -> Any:
        return self._adapter_manager.modules

    def stage(self, request: LoRARequest) -> str:
        """Read an adapter into memory.

        Args:
            request: The adapter.

        Returns:
            Why it cannot be read. "" if it was read.
        """
        try:
            self._staged[request.lora_int_id] = self._reader.submit(self._read, request).result()
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    def unstage(self, lora_int_id: int) -> None:
        """Release an adapter's memory.

        Args:
            lora_int_id: vLLM's number for the adapter.
        """
        self._staged.pop(lora_int_id, None)

    def _read(self, request: LoRARequest) -> LoRAModel:
        if current_platform.is_cpu():
            return self._read_packed(request)
        check_adapter_fits(Path(request.lora_path), self._base_layers)
        lora = super()._load_adapter(request)
        # The manager would do this in the step loop: merge the factors of q, k and v, and the like.
        self._adapter_manager._create_merged_loras_inplace(lora)
        return lora

    def _read_packed(self, request: LoRARequest) -> PackedAdapter:
        PEFTHelper.from_local_dir(request.lora_path, self.max_position_embeddings).validate_legal(self.lora_config)
        packed_modules = self._adapter_manager.packed_modules
        return read_packed_lora(
            Path(request.lora_path), request.lora_int_id, self._modules, packed_modules, self._to_vllm_name
        )

    @lru_cache(4096)  # noqa: B019 (a process has only one manager)
    def _to_vllm_name(self, layer: str) -> str:
        """Return vLLM's name of a layer for PEFT's."""
        mapper = getattr(self._adapter_manager.model, "hf_to_vllm_mapper", None)
        name: str = parse_fine_tuned_lora_name(layer + LORA_A_SUFFIX, mapper and mapper.get_rename_mapper())[0]
        return name

    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:
        staged = self._staged.get(lora_request.lora_int_id)
        return self._read(lora_request) if staged is None else staged


class StagingWorkerExtension:
    """Adds methods to vLLM's worker, which vLLM mixes in by the setting ``worker_extension_cls``."""

    model_runner: Any
    """The worker's model runner, as in vLLM's worker."""
    rank: int
    """The worker's rank, as in vLLM's worker."""

    def listen_for_staging(self, folder: str) -> str:
        """Serve the requests of an ``AdapterStagingClient`` at a Unix socket.

        vLLM's own calls to workers wait for the end of the current step, and their results for the end of the next.

        Args:
            folder: Folder for the socket.

        Returns:
            Path of the socket.
        """
        loras: StagingLoRAManager = self.model_runner.lora_manager

        class StagingRequestHandler(StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    name, lora_int_id, path = orjson.loads(line)
                    error = ""
                    if path is None:
                        loras.unstage(lora_int_id)
                    else:
                        error = loras.stage(LoRARequest(name, lora_int_id, path))
                    self.wfile.write(orjson.dumps(error) + b"\n")

        path = str(Path(folder) / str(self.rank))
        server = ThreadingUnixStreamServer(path, StagingRequestHandler)
        server.daemon_threads = True

        def serve() -> None:
            leave_engine_cores()
            server.serve_forever()

        Thread(target=serve, name="staging", daemon=True).start()
        return path


class AdapterStagingClient:
    """Loads adapters into the memory of an engine's workers and evicts them. Create it with ``connect``."""

    def __init__(
        self,
        workers: Sequence["_WorkerConnection"],
        sockets: TemporaryDirectory[str],
        lora_requests: dict[str, LoRARequest],
    ) -> None:
        """Store the connections.

        Args:
            workers: Connections to the workers.
            sockets: Folder of the sockets.
            lora_requests: Where vLLM's OpenAI front end looks up the adapter of a request's model.
        """
        self._workers = workers
        self._sockets = sockets
        self._lora_requests = lora_requests
        self._lora_int_ids = itertools.count(1)

    @classmethod
    async def connect(cls, engine: Any, lora_requests: dict[str, LoRARequest]) -> Self:
        """Connect to the workers of an engine.

        Args:
            engine: vLLM's asynchronous engine client.
            lora_requests: Where vLLM's OpenAI front end looks up the adapter of a request's model.

        Returns:
            The connected client.
        """
        sockets = TemporaryDirectory(prefix="looper-")
        paths = await engine.collective_rpc("listen_for_staging", args=(sockets.name,))
        workers = [_WorkerConnection(*await asyncio.open_unix_connection(path)) for path in paths]
        return cls(workers, sockets, lora_requests)

    async def load(self, digest: str, folder: Path) -> LoRARequest:
        """Load an adapter into every worker. From then on, requests may name it.

        Args:
            digest: Digest of the adapter.
            folder: Folder of the adapter on disk.

        Returns:
            vLLM's handle for the adapter.

        Raises:
            InvalidInput: A worker cannot read the adapter.
            ConnectionError: A worker has died.
        """
        request = LoRARequest(digest, next(self._lora_int_ids), str(folder))
        errors = await self._send_to_all(digest, request.lora_int_id, str(folder))
        if error := next(filter(None, errors), None):
            await self._send_to_all(digest, request.lora_int_id, None)
            raise InvalidInput(f"adapter {digest} cannot be served on this base model: {error}")
        self._lora_requests[digest] = request
        return request

    async def evict(self, digest: str, request: LoRARequest) -> None:
        """Release an adapter's memory in every worker.

        Args:
            digest: Digest of the adapter.
            request: vLLM's handle for it.
        """
        del self._lora_requests[digest]
        await self._send_to_all(digest, request.lora_int_id, None)

    async def _send_to_all(self, digest: str, lora_int_id: int, path: str | None) -> list[str]:
        """Stage the adapter at ``path``, or unstage it if that is None. Return each worker's error, or ""."""
        return await asyncio.gather(*(worker.call([digest, lora_int_id, path]) for worker in self._workers))


class _WorkerConnection:
    """The connection to one worker. Calls are made one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()

    async def call(self, message: Sequence[str | int | None]) -> str:
        async with self._lock:
            self._writer.write(orjson.dumps(message) + b"\n")
            line = await self._reader.readline()
        if not line:
            raise ConnectionResetError("a worker of the engine died: the engine will be started again")
        error: str = orjson.loads(line)
        return error
