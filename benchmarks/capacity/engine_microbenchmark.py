"""The CPU engine alone: what LoRA costs it as vLLM does it, and as Looper's plugin does.

``python -m looper.benchmarks.capacity.engine_microbenchmark MODEL_DIR`` runs both in processes of
their own and prints JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from looper.benchmarks.capacity import random_adapters as adapters
from looper.platform.adapters import AdapterFiles
from looper.platform.settings import load_settings
from looper.serve.cache.cache_sizes import adapted
from looper.serve.cpu.kernel_layout import PACKED_FILE, pack_adapter
from looper.serve.engine.engine_arguments import EngineSettings, engine_settings

SEQUENCES = 16
PROMPT, ANSWER = 16, 32
CASES = {"base": 0, "1 adapter": 1, "8 adapters": 8, "16 adapters over 8 slots": 16}
"""How many adapters the sequences of one batch have."""
ROUNDS = 3
SLOTS = 8
PLUGINS = {"vllm": "", "looper": "looper"}
"""Which of vLLM's plugins each engine loads."""

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def measure(model_dir: Path, lora: bool) -> dict[str, Any]:
    """Seconds to read all prompts, and tokens generated in a second, for each of ``CASES``: the medians."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    arguments = _settings(model_dir).arguments
    for ours in ("worker_extension_cls", "enable_auto_tool_choice", "tool_call_parser"):
        arguments.pop(ours)
    if lora:
        arguments["max_cpu_loras"] = 2 * SEQUENCES
    else:
        arguments = {name: value for name, value in arguments.items() if "lora" not in name}
    # Of several processes, vLLM's spin while they wait: on two cores, in each other's way.
    engine = LLM(str(model_dir), enable_prefix_caching=False, distributed_executor_backend="uni", **arguments)
    with tempfile.TemporaryDirectory() as folder:
        requests = [_adapter(Path(folder), model_dir, number, LoRARequest) for number in range(16)] if lora else []

        def run(adapters_used: int, tokens: int) -> float:
            prompts = [TokensPrompt(prompt_token_ids=[100 + n] * PROMPT) for n in range(SEQUENCES)]
            sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            each = [requests[n % adapters_used] for n in range(SEQUENCES)] if adapters_used else None
            began = time.perf_counter()
            engine.generate(prompts, sampling, lora_request=each, use_tqdm=False)
            return time.perf_counter() - began

        found = {}
        for name, used in CASES.items():
            if used and not lora:
                continue
            run(used, 1)
            times = sorted((run(used, 1), run(used, ANSWER)) for _ in range(ROUNDS))
            prefill, whole = times[ROUNDS // 2]
            found[name] = {
                "prefill_s": round(prefill, 3),
                "tokens_per_s": round(SEQUENCES * (ANSWER - 1) / (whole - prefill), 1),
            }
    return found


def _settings(model_dir: Path) -> EngineSettings:
    serve = load_settings().serve
    return engine_settings(serve, serve, SLOTS, adapted(model_dir), "cpu", os.sched_getaffinity(0))


def _adapter(folder: Path, model_dir: Path, number: int, request: Any) -> Any:
    layers = adapters.shapes(model_dir)
    path = folder / str(number)
    path.mkdir()
    files = AdapterFiles(adapters.weights(layers, number), adapters.config(layers, "base"), b"{}")
    for name, content in (files.by_name() | {PACKED_FILE: pack_adapter(files)}).items():
        (path / name).write_bytes(content)
    return request(str(number), number + 1, str(path))


def main() -> None:
    model_dir = Path(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(measure(model_dir, sys.argv[2] == "lora")))
        return
    environment = _settings(model_dir).environment
    found = {}
    for name, plugins, lora in (("vllm, no LoRA", "", "no"), *((name, p, "lora") for name, p in PLUGINS.items())):
        ran = subprocess.run(
            [sys.executable, "-m", "looper.benchmarks.capacity.engine_microbenchmark", str(model_dir), lora],
            env=os.environ | environment | QUIET | {"VLLM_PLUGINS": plugins},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[name] = json.loads(ran.stdout.strip().splitlines()[-1])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
