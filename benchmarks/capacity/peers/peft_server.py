"""PEFT as a server, in the plainest way: one request at a time, its adapter switched on before it is answered.

``python -m looper.benchmarks.capacity.peers.peft_server MODEL_DIR BASE ADAPTERS LOADED PORT``: of OpenAI's
protocol, streamed completions of token ids, which is what the benchmark's clients ask for. At most LOADED adapters
stay loaded, the least recently used making room.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from looper.platform.domain.names import check_name


class AdapterSwitchingModel:
    """The base and what is loaded of its adapters."""

    def __init__(self, model_dir: Path, base: str, adapters: Path, most_loaded: int) -> None:
        self._plain = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self._peft: PeftModel | None = None
        self._base = base
        self._adapters = adapters
        self._most_loaded = most_loaded
        self._loaded: OrderedDict[str, None] = OrderedDict()

    def generate(self, name: str, prompt: list[int], tokens: int, streamer: BaseStreamer) -> None:
        sampling = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            if name == self._base:
                if self._peft is None:
                    self._plain.generate(ids, streamer=streamer, **sampling)
                    return
                with self._peft.disable_adapter():
                    self._peft.generate(input_ids=ids, streamer=streamer, **sampling)
                return
            self._switch(check_name(name, "adapter")).generate(input_ids=ids, streamer=streamer, **sampling)

    def _switch(self, name: str) -> PeftModel:
        folder = self._adapters / name
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._plain, folder, adapter_name=name)
        elif name not in self._loaded:
            if len(self._loaded) >= self._most_loaded:
                self._peft.delete_adapter(self._loaded.popitem(last=False)[0])
            self._peft.load_adapter(folder, adapter_name=name)
        self._loaded[name] = None
        self._loaded.move_to_end(name)
        self._peft.set_adapter(name)
        return self._peft


class Tokens(BaseStreamer):  # type: ignore[misc]
    """Passes what is generated on to an event loop; the first it is given is the prompt."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        for token in value.flatten().tolist():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, token)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self.queue.put_nowait, None)


def app(model: AdapterSwitchingModel) -> FastAPI:
    # One thread: a request whose client has left is generated to its end before the adapter is switched.
    server, turns = FastAPI(), ThreadPoolExecutor(1)

    @server.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @server.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            tokens = Tokens()
            done = turns.submit(model.generate, body["model"], body["prompt"], body["max_tokens"], tokens)
            done.add_done_callback(lambda _: tokens.end())  # should it fail
            while (token := await tokens.queue.get()) is not None:
                yield b"data: " + orjson.dumps({"choices": [{"text": str(token)}]}) + b"\n\n"
            await asyncio.wrap_future(done)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return server


def main() -> None:
    model_dir, base, adapters, loaded, port = sys.argv[1:]
    model = AdapterSwitchingModel(Path(model_dir), base, Path(adapters), int(loaded))
    uvicorn.run(app(model), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
