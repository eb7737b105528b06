"""Adapters in the memory of vLLM's workers, read by a thread beside the engine's step loop.

vLLM reads and parses an adapter's file in the loop, when the first request for it is scheduled or when it has dropped
it meanwhile; all other requests wait. Here a request is scheduled only once its adapter has been staged, so that the
loop moves ready tensors into a slot and no more.

Two sides: ``StagedLoras`` and ``Staging`` in each worker, and ``Staged`` in the replica, which tells them.
"""

import asyncio
import itertools
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.platforms import current_platform

from looper.platform.domain.errors import InvalidInput
from looper.serve.cpu_lora import LaidOut, Pointing, point_slots, read_laid_out
from looper.serve.laid_out import A
from looper.serve.lora_kernel import keep_apart

POLL_S = 0.005
"""Between two questions whether an adapter is there. The workers answer between two steps."""

SWITCH_S = 0.0005
"""For so long, a thread keeps the interpreter while another waits for it; Python's own 5 ms are a tenth of a step."""


class StagedLoras(LRUCacheWorkerLoRAManager):  # type: ignore[misc]
    """vLLM's manager of a worker's adapters, which finds what has been staged."""

    if current_platform.is_cpu():
        _manager_cls = Pointing

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # More than one would only take the loop's cores.
        self._reader = ThreadPoolExecutor(1, "stage", os.sched_setaffinity, (0, os.sched_getaffinity(0)))
        self._staged: dict[int, Future[LoRAModel]] = {}

    def create_lora_manager(self, model: Any, vllm_config: Any) -> Any:
        model = super().create_lora_manager(model, vllm_config)
        if current_platform.is_cpu():
            # The reader must not keep the interpreter from the loop, which asks for it a thousand times a step.
            sys.setswitchinterval(SWITCH_S)
            point_slots(self._modules)
            keep_apart()
        return model

    @property
    def _modules(self) -> Any:
        return self._adapter_manager.modules

    def stage(self, request: LoRARequest) -> None:
        """Begin to read an adapter."""
        self._staged[request.lora_int_id] = self._reader.submit(self._read, request)

    def refusal(self, number: int) -> str | None:
        """Why an adapter could not be read, empty if it was read, None while it is being read."""
        reading = self._staged[number]
        if not reading.done():
            return None
        if error := reading.exception():
            del self._staged[number]
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

    def _read_laid_out(self, request: LoRARequest) -> LaidOut:
        PEFTHelper.from_local_dir(request.lora_path, self.max_position_embeddings).validate_legal(self.lora_config)
        packed = self._adapter_manager.packed_modules
        return read_laid_out(Path(request.lora_path), request.lora_int_id, self._modules, packed, self._name_of)

    @lru_cache(4096)  # noqa: B019 (there is one of these in a process)
    def _name_of(self, layer: str) -> str:
        """vLLM's name of a layer, of PEFT's."""
        names = getattr(self._adapter_manager.model, "hf_to_vllm_mapper", None)
        name: str = parse_fine_tuned_lora_name(layer + A, names and names.get_rename_mapper())[0]
        return name

    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:
        staged = self._staged.get(lora_request.lora_int_id)
        return self._read(lora_request) if staged is None else staged.result()


class Staging:
    """Methods that every worker of the engine gets, for ``Staged`` to call."""

    model_runner: Any

    def stage_adapter(self, name: str, number: int, path: str) -> None:
        self.model_runner.lora_manager.stage(LoRARequest(name, number, path))

    def adapter_refusal(self, number: int) -> str | None:
        refusal: str | None = self.model_runner.lora_manager.refusal(number)
        return refusal

    def unstage_adapter(self, number: int) -> None:
        self.model_runner.lora_manager.unstage(number)


class Staged:
    """The adapters in the memory of the workers of ``engine``, vLLM's asynchronous client.

    ``known`` is where vLLM's OpenAI front end finds what a request's model means.
    """

    def __init__(self, engine: Any, known: dict[str, LoRARequest]) -> None:
        self._engine = engine
        self._known = known
        self._numbers = itertools.count(1)

    async def bring(self, digest: str, folder: Path) -> LoRARequest:
        """Have every worker read the adapter in ``folder``; from then on, requests may name it.

        Raises InvalidInput with vLLM's reason if it refuses the adapter.
        """
        number = next(self._numbers)
        await self._engine.collective_rpc("stage_adapter", args=(digest, number, str(folder)))
        while None in (answers := await self._engine.collective_rpc("adapter_refusal", args=(number,))):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if any(answers):
            raise InvalidInput(f"adapter {digest}: {next(filter(None, answers))}")
        self._known[digest] = LoRARequest(digest, number, str(folder))
        return self._known[digest]

    async def drop(self, digest: str, request: LoRARequest) -> None:
        del self._known[digest]
        await self._engine.collective_rpc("unstage_adapter", args=(request.lora_int_id,))
