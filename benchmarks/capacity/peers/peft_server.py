"""The simplest PEFT server: it answers one request at a time, and activates the request's adapter before it.

``peers`` runs ``python -m looper.benchmarks.capacity.peers.peft_server MODEL_DIR BASE ADAPTERS LOADED PORT``. Of
OpenAI's API it has only what the benchmark's clients use: streamed completions of token ids. At most LOADED adapters
stay loaded; the least recently used one is evicted.
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
    """The base model with the adapters that are loaded."""

    def __init__(self, model_dir: Path, base: str, adapters: Path, max_loaded: int) -> None:
        """Load the base model.

        Args:
            model_dir: Folder of the base model.
            base: Name of the base model.
            adapters: Parent of the adapters' folders.
            max_loaded: Maximum number of adapters that stay loaded.
        """
        self._base_model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self._peft: PeftModel | None = None
        self._base = base
        self._adapters = adapters
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, None] = OrderedDict()

    def generate(self, name: str, prompt: list[int], tokens: int, streamer: BaseStreamer) -> None:
        """Generate an answer.

        Args:
            name: Name of the base model or of an adapter.
            prompt: Token ids of the prompt.
            tokens: Number of tokens to generate.
            streamer: Receives each token.
        """
        sampling = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            if name == self._base:
                if self._peft is None:
                    self._base_model.generate(ids, streamer=streamer, **sampling)
                    return
                with self._peft.disable_adapter():
                    self._peft.generate(input_ids=ids, streamer=streamer, **sampling)
                return
            self._activate(check_name(name, "adapter")).generate(input_ids=ids, streamer=streamer, **sampling)

    def _activate(self, name: str) -> PeftModel:
        folder = self._adapters / name
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self._base_model, folder, adapter_name=name)
        elif name not in self._loaded:
            if len(self._loaded) >= self._max_loaded:
                self._peft.delete_adapter(self._loaded.popitem(last=False)[0])
            self._peft.load_adapter(folder, adapter_name=name)
        self._loaded[name] = None
        self._loaded.move_to_end(name)
        self._peft.set_adapter(name)
        return self._peft


class TokenStreamer(BaseStreamer):  # type: ignore[misc]
    """Passes generated tokens to an event loop.

    Attributes:
        queue: The tokens, and None at the end.
    """

    def __init__(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Pass tokens on, except for the first call, which has the prompt.

        Args:
            value: Token ids.
        """
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, token)

    def end(self) -> None:
        """Mark the end of the answer."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, None)


def create_app(model: AdapterSwitchingModel) -> FastAPI:
    """Create the server.

    Args:
        model: The model with its adapters.

    Returns:
        An ASGI app.
    """
    # With one thread, the answer of a client that has disconnected is completed before the adapter is switched.
    app, executor = FastAPI(), ThreadPoolExecutor(1)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            tokens = TokenStreamer()
            done = executor.submit(model.generate, body["model"], body["prompt"], body["max_tokens"], tokens)
            done.add_done_callback(lambda _: tokens.end())  # also after an error
            while (token := await tokens.queue.get()) is not None:
                yield b"data: " + orjson.dumps({"choices": [{"text": str(token)}]}) + b"\n\n"
            await asyncio.wrap_future(done)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    """Load the base model and serve until the process is ended."""
    model_dir, base, adapters, loaded, port = sys.argv[1:]
    model = AdapterSwitchingModel(Path(model_dir), base, Path(adapters), int(loaded))
    uvicorn.run(create_app(model), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
