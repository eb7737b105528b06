"""Measure what LoRA costs the CPU engine alone, with vLLM's own kernels and with Looper's plugin.

``python -m looper.benchmarks.capacity.engine_microbenchmark MODEL_DIR`` runs each in its own process and prints JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from looper.benchmarks.capacity import random_adapters
from looper.platform.adapters import AdapterFiles
from looper.platform.settings import load_settings
from looper.serve.cache.cache_sizes import lora_target_modules
from looper.serve.cpu.kernel_layout import PACKED_FILE, pack_adapter
from looper.serve.engine.engine_arguments import EngineSettings, build_engine_settings

SEQUENCES = 16
"""Sequences of a batch."""
PROMPT_TOKENS, OUTPUT_TOKENS = 16, 32
"""Lengths of each prompt and answer."""
CASES = {"base": 0, "1 adapter": 1, "8 adapters": 8, "16 adapters over 8 slots": 16}
"""Number of different adapters in a batch, for each case."""
ROUNDS = 3
"""Repetitions of each case."""
SLOTS = 8
"""Slots of the engine (vLLM's ``max_loras``)."""
PLUGINS = {"vllm": "", "looper": "looper"}
"""The vLLM plugins that each engine loads."""

QUIET_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Environment of each engine: one process that logs errors only."""


def measure(model_dir: Path, lora: bool) -> dict[str, Any]:
    """Measure prefill and decoding for each of ``CASES``.

    Args:
        model_dir: Folder of the base model.
        lora: Whether the engine has LoRA enabled; without it, only the base model is measured.

    Returns:
        The seconds of the prefill and the decoded tokens per second of the median round, by case.
    """
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    arguments = _create_settings(model_dir).arguments
    server_only = ("enable_prompt_tokens_details", "enable_auto_tool_choice", "tool_call_parser")
    for name in ("worker_extension_cls", *server_only):
        arguments.pop(name)
    if lora:
        arguments["max_cpu_loras"] = 2 * SEQUENCES
    else:
        arguments = {name: value for name, value in arguments.items() if "lora" not in name}
    # With several processes, vLLM's spin while they wait, and on two cores they slow each other down.
    engine = LLM(str(model_dir), enable_prefix_caching=False, distributed_executor_backend="uni", **arguments)
    with tempfile.TemporaryDirectory() as folder:
        requests = (
            [_write_adapter(Path(folder), model_dir, number, LoRARequest) for number in range(16)] if lora else []
        )

        def run(adapters_used: int, tokens: int) -> float:
            prompts = [TokensPrompt(prompt_token_ids=[100 + n] * PROMPT_TOKENS) for n in range(SEQUENCES)]
            sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            lora_requests = [requests[n % adapters_used] for n in range(SEQUENCES)] if adapters_used else None
            started = time.perf_counter()
            engine.generate(prompts, sampling, lora_request=lora_requests, use_tqdm=False)
            return time.perf_counter() - started

        results = {}
        for name, adapters_used in CASES.items():
            if adapters_used and not lora:
                continue
            run(adapters_used, 1)
            times = sorted((run(adapters_used, 1), run(adapters_used, OUTPUT_TOKENS)) for _ in range(ROUNDS))
            prefill_s, total_s = times[ROUNDS // 2]
            results[name] = {
                "prefill_s": round(prefill_s, 3),
                "tokens_per_s": round(SEQUENCES * (OUTPUT_TOKENS - 1) / (total_s - prefill_s), 1),
            }
    return results


def _create_settings(model_dir: Path) -> EngineSettings:
    serve = load_settings().serve
    return build_engine_settings(serve, serve, SLOTS, lora_target_modules(model_dir), "cpu", os.sched_getaffinity(0))


def _write_adapter(folder: Path, model_dir: Path, number: int, lora_request: Any) -> Any:
    layers = random_adapters.linear_layer_shapes(model_dir)
    path = folder / str(number)
    path.mkdir()
    files = AdapterFiles(
        random_adapters.random_weights(layers, number), random_adapters.adapter_config(layers, "base"), b"{}"
    )
    for name, content in (files.to_dict() | {PACKED_FILE: pack_adapter(files)}).items():
        (path / name).write_bytes(content)
    return lora_request(str(number), number + 1, str(path))


def main() -> None:
    """Measure all engines and print JSON; with an argument ``lora`` or ``no``, measure one engine."""
    model_dir = Path(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(measure(model_dir, sys.argv[2] == "lora")))
        return
    environment = _create_settings(model_dir).environment
    results = {}
    for name, plugins, lora in (("vllm, no LoRA", "", "no"), *((name, p, "lora") for name, p in PLUGINS.items())):
        process = subprocess.run(
            [sys.executable, "-m", "looper.benchmarks.capacity.engine_microbenchmark", str(model_dir), lora],
            env=os.environ | environment | QUIET_ENVIRONMENT | {"VLLM_PLUGINS": plugins},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[name] = json.loads(process.stdout.strip().splitlines()[-1])
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
