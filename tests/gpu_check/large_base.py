"""Speed and memory of training many tenants on a large base with random weights, made on the device."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from looper.cli.plan import GPUS
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.memory_plan import USED_SHARE, MemoryPlan, PassChoice, choose_pass, plan_memory
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.session_setup import start_session
from looper.platform.domain.recipe import Recipe
from tests.architectures import llama_config
from tests.gpu_check.result import Notify, PartResult

PLAN_TOLERANCE = 0.15
"""Largest relative difference of the measured peak to the planned one."""

STEPS = 4
"""Steps of each measurement. The first one is not counted."""


@dataclass(frozen=True)
class BaseSize:
    """What is trained."""

    config: LlamaConfig
    tenants: tuple[int, ...]
    window: int
    """Tokens of each example, half of which are learned."""


def pick_size(device: Device) -> BaseSize:
    """Return the shape of Llama-3.1-8B for a GPU, and a tiny one for anything else."""
    if device.torch_device.type == "cuda" and torch.cuda.is_available():
        return BaseSize(llama_config(4096, 14336, 32, 32, 8, 128_256), (1, 16, 64), 512)
    return BaseSize(llama_config(64, 128, 2, 4, 2, 512), (1, 4), 32)


def check_large_base(folder: Path, device: Device, notify: Notify, size: BaseSize | None = None) -> PartResult:
    """Measure tokens per second, utilization and peak memory with each number of tenants.

    With the largest number that keeps its activations, it also measures what it takes to compute them again.
    """
    result, size = PartResult(), size or pick_size(device)
    folder.mkdir(parents=True, exist_ok=True)
    size.config.save_pretrained(folder)
    notify("counting a pass, and making a base model of random weights")
    batch_size = max(1, _windows(device, size, 1))
    recipe = Recipe(method="lora", strategy="none", learning_rate=1e-3, epochs=STEPS, batch_size=batch_size)
    plan = plan_memory(folder, recipe, device)
    memory = _memory(device)
    base = SharedBase(folder, device, checked=False, load=_load_random)
    for tenants in size.tenants:
        choice = choose_pass(plan, memory * USED_SHARE, tenants, device.max_tokens_per_pass)
        choices = [choice]
        if not choice.recomputes and tenants == size.tenants[len(size.tenants) // 2]:
            choices.append(PassChoice(choice.tokens, recomputes=True))
        for each in choices:
            name = f"{tenants} tenants" + (", activations computed again" if each.recomputes else "")
            notify(f"{name}, {each.tokens} tokens per pass")
            _measure_into(result, name, partial(_measure, base, recipe, size, plan, tenants, each))
    return result


def _measure_into(result: PartResult, name: str, measure: Callable[[], dict[str, Any]]) -> None:
    try:
        figures = measure()
    except Exception as error:  # the other numbers of tenants go on
        result.errors.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
        return
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    result.figures[name] = figures
    ratio = figures["planned_to_measured"]
    if ratio is not None and abs(ratio - 1) > PLAN_TOLERANCE:
        result.errors.append(f"{name}: the plan is {ratio:.2f} of the measured peak")


def _measure(
    base: SharedBase, recipe: Recipe, size: BaseSize, plan: MemoryPlan, tenants: int, choice: PassChoice
) -> dict[str, Any]:
    if choice.tokens < size.window:
        return {"fits": False, "planned_to_measured": None}
    base.max_tokens_per_pass, base.recomputes = choice.tokens, choice.recomputes
    count = max(1, _windows(base.number_formats, size, tenants))
    recipe = recipe.model_copy(update={"batch_size": count})
    rng = np.random.default_rng(0)
    sessions = [start_session(base, recipe, _examples(rng, size, count), None, {}) for _ in range(tenants)]
    on_gpu = torch.cuda.is_available() and base.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    _step(base, sessions)
    started = time.perf_counter()
    for _ in range(STEPS - 1):
        losses = _step(base, sessions)
    seconds = (time.perf_counter() - started) / (STEPS - 1)
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    tokens = tenants * count * size.window
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    planned = plan.peak(tenants, min(tokens, choice.tokens), choice.recomputes)
    tera = _peak_tera(base.device) if on_gpu else None
    return {
        "tokens_per_pass": choice.tokens,
        "recomputes_activations": choice.recomputes,
        "tokens_per_s": round(tokens / seconds),
        "step_s": round(seconds, 4),
        "mfu": round(_operations(base, tokens) / seconds / tera / 1e12, 3) if tera else None,
        "planned_bytes": int(planned),
        "peak_bytes": peak,
        "planned_to_measured": round(planned / peak, 3) if peak else None,
    }


def _step(base: SharedBase, sessions: list[TrainingSession]) -> list[float]:
    results = compute_losses_and_gradients(base, sessions)
    for session, (loss, gradients) in zip(sessions, results, strict=True):
        session.take_step(loss, gradients)
    return [loss for loss, _ in results]  # read back from the device, so it has finished


def _windows(device: Device, size: BaseSize, tenants: int) -> int:
    """Return how many windows each tenant has in a step, so that all together fill a pass."""
    return device.max_tokens_per_pass // size.window // tenants


def _examples(rng: np.random.Generator, size: BaseSize, count: int) -> list[Window]:
    half = size.window // 2
    weights: Any = np.repeat(np.float32([0, 1]), [size.window - half, half])
    return [
        Window(rng.integers(0, size.config.vocab_size, size.window).astype(np.int32), weights, ()) for _ in range(count)
    ]


def _operations(base: SharedBase, tokens: int) -> float:
    """Return the useful operations of a step: 2 for each weight and token forward, and 2 backward."""
    layers = sum(layer.in_features * layer.out_features for layer in base.linear_layers.values())
    head = base.vocab_size * next(iter(base.linear_layers.values())).in_features
    return 4.0 * (layers * tokens + head * tokens / 2)


def _peak_tera(device: torch.device) -> float | None:
    """Return the card's dense bfloat16 TFLOP/s, if it is known."""
    name = torch.cuda.get_device_name(device).lower()
    return next((tera for key, (_, tera) in GPUS.items() if key in name), None)


def _memory(device: Device) -> float:
    if device.torch_device.type == "cuda" and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info(device.torch_device)[0])
    return float(psutil.virtual_memory().available)


def _load_random(folder: Path, device: Device) -> PreTrainedModel:
    with torch.device(device.torch_device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            LlamaConfig.from_pretrained(folder), dtype=device.dtype
        )
    return model
