"""Adapters in the memory of vLLM's workers, read by a thread beside the engine's step loop.

vLLM reads and parses an adapter's file in the loop, when the first request for it is scheduled or when it has dropped
it meanwhile; all other requests wait. Here a request is scheduled only once its adapter has been staged, so that the
loop moves ready tensors into a slot and no more.

Two sides: ``StagingLoRAManager`` and ``StagingWorkerExtension`` in each worker, and ``AdapterStagingClient`` in the
replica, which tells them.
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

from looper.platform.domain.errors import InvalidInput
from looper.serve.cpu.cores import bound
from looper.serve.cpu.kernel_layout import A
from looper.serve.cpu.lora_layers import PackedAdapter, SlotPointerLoRAManager, point_slots, read_packed_lora
from looper.serve.cpu.openmp import keep_apart

SWITCH_S = 0.0005
"""For so long, a thread keeps the interpreter while another waits for it; Python's own 5 ms are a tenth of a step."""

ALL = os.sched_getaffinity(0)
"""This process's cores, before any thread is bound."""


def step_aside() -> None:
    """Have this thread, and those it starts, leave the cores to the loop that the loop's threads are bound to."""
    os.sched_setaffinity(0, ALL - set(bound()) or ALL)


class StagingLoRAManager(LRUCacheWorkerLoRAManager):  # type: ignore[misc]
    """vLLM's manager of a worker's adapters, which finds what has been staged."""

    if current_platform.is_cpu():
        _manager_cls = SlotPointerLoRAManager

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._reader = ThreadPoolExecutor(1, "stage", step_aside)
        self._staged: dict[int, LoRAModel] = {}

    def create_lora_manager(self, model: Any, vllm_config: Any) -> Any:
        model = super().create_lora_manager(model, vllm_config)
        if current_platform.is_cpu():
            # The reader must not keep the interpreter from the loop, which asks for it a thousand times a step.
            sys.setswitchinterval(SWITCH_S)
            point_slots(self._modules)
            keep_apart(bound())
        return model

    @property
    def _modules(self) -> Any:
        return self._adapter_manager.modules

    def stage(self, request: LoRARequest) -> str:
        """Read an adapter; return why it could not be read, or nothing."""
        try:
            self._staged[request.lora_int_id] = self._reader.submit(self._read, request).result()
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    def unstage(self, number: int) -> None:
        self._staged.pop(number, None)

    def _read(self, request: LoRARequest) -> LoRAModel:
        if current_platform.is_cpu():
            return self._read_laid_out(request)
        lora = super()._load_adapter(request)
        # What the manager would do in the loop: the factors of q, k and v, and the like, are put together.
        self._adapter_manager._create_merged_loras_inplace(lora)
        return lora

    def _read_laid_out(self, request: LoRARequest) -> PackedAdapter:
        PEFTHelper.from_local_dir(request.lora_path, self.max_position_embeddings).validate_legal(self.lora_config)
        packed = self._adapter_manager.packed_modules
        return read_packed_lora(Path(request.lora_path), request.lora_int_id, self._modules, packed, self._name_of)

    @lru_cache(4096)  # noqa: B019 (there is one of these in a process)
    def _name_of(self, layer: str) -> str:
        """vLLM's name of a layer, of PEFT's."""
        names = getattr(self._adapter_manager.model, "hf_to_vllm_mapper", None)
        name: str = parse_fine_tuned_lora_name(layer + A, names and names.get_rename_mapper())[0]
        return name

    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:
        staged = self._staged.get(lora_request.lora_int_id)
        return self._read(lora_request) if staged is None else staged


class StagingWorkerExtension:
    """What every worker of the engine can do besides."""

    model_runner: Any
    rank: int

    def listen(self, folder: str) -> str:
        """Begin to do what ``AdapterStagingClient`` asks for at a socket in ``folder``; return its path.

        vLLM's own calls to workers wait for the end of the step, and their answers for that of the next.
        """
        loras: StagingLoRAManager = self.model_runner.lora_manager

        class Requests(StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    name, number, path = orjson.loads(line)
                    refusal = ""
                    if path is None:
                        loras.unstage(number)
                    else:
                        refusal = loras.stage(LoRARequest(name, number, path))
                    self.wfile.write(orjson.dumps(refusal) + b"\n")

        path = str(Path(folder) / str(self.rank))
        server = ThreadingUnixStreamServer(path, Requests)
        server.daemon_threads = True

        def serve() -> None:
            step_aside()
            server.serve_forever()

        Thread(target=serve, name="staging", daemon=True).start()
        return path


class AdapterStagingClient:
    """The adapters in the memory of the workers of an engine.

    ``known`` is where vLLM's OpenAI front end finds what a request's model means.
    """

    def __init__(self, workers: Sequence["_Worker"], sockets: TemporaryDirectory[str], known: dict[str, LoRARequest]):
        self._workers = workers
        self._sockets = sockets
        self._known = known
        self._numbers = itertools.count(1)

    @classmethod
    async def open(cls, engine: Any, known: dict[str, LoRARequest]) -> Self:
        """``engine`` is vLLM's asynchronous client."""
        sockets = TemporaryDirectory(prefix="looper-")
        paths = await engine.collective_rpc("listen", args=(sockets.name,))
        return cls([_Worker(*await asyncio.open_unix_connection(path)) for path in paths], sockets, known)

    async def bring(self, digest: str, folder: Path) -> LoRARequest:
        """Have every worker read the adapter in ``folder``; from then on, requests may name it.

        Raises InvalidInput with the reason if one refuses the adapter.
        """
        request = LoRARequest(digest, next(self._numbers), str(folder))
        if refusal := next(filter(None, await self._tell(digest, request.lora_int_id, str(folder))), None):
            await self._tell(digest, request.lora_int_id, None)
            raise InvalidInput(f"adapter {digest}: {refusal}")
        self._known[digest] = request
        return request

    async def drop(self, digest: str, request: LoRARequest) -> None:
        del self._known[digest]
        await self._tell(digest, request.lora_int_id, None)

    async def _tell(self, digest: str, number: int, path: str | None) -> list[str]:
        return await asyncio.gather(*(worker.ask([digest, number, path]) for worker in self._workers))


class _Worker:
    """One worker's socket. Whoever asks waits for who asked before."""

    def __init__(self, answers: asyncio.StreamReader, questions: asyncio.StreamWriter) -> None:
        self._answers, self._questions = answers, questions
        self._turn = asyncio.Lock()

    async def ask(self, question: Sequence[str | int | None]) -> str:
        async with self._turn:
            self._questions.write(orjson.dumps(question) + b"\n")
            answer = await self._answers.readline()
        if not answer:
            raise RuntimeError("a worker of the engine has died")
        refusal: str = orjson.loads(answer)
        return refusal
