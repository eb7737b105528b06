"""Training on the device: packed tenants equal each alone, and all strategies and methods learn twice."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.packing import spans_of
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from tests.architectures import architecture_base
from tests.gpu_check.result import Notify, PartResult
from tests.jobs.consolidation.data.test_packing import gradients_of, random_lora, random_windows, through_peft
from tests.jobs.consolidation.test_devices import RECIPES, name_of, train_two_sessions
from tests.tiny import tiny_base

FAMILIES = ("Llama", "Qwen3", "Mistral", "Gemma-3", "Qwen3-MoE")

FLOAT32_TOLERANCE = 1e-3
"""Largest relative difference of losses and gradients to plain PEFT on the CPU, in float32."""

ROUNDED_TOLERANCE = 0.05
"""The same of a tenant in company to the same tenant alone, both as the device computes: bfloat16 rounds to 0.004."""


def check_equality(folder: Path, device: Device, notify: Notify, families: tuple[str, ...] = FAMILIES) -> PartResult:
    """Compare tenants of one pass with plain PEFT in float32, and with each alone in the device's own formats."""
    result = PartResult()
    for name in families:
        base_dir = architecture_base(folder / name, name)
        exact = replace(device, dtype=torch.float32, attention_dtype=torch.float32)
        found = {
            "float32": _difference_to_peft(SharedBase(base_dir, exact), base_dir, folder),
            "rounded": _difference_to_alone(SharedBase(base_dir, device)),
        }
        result.figures[name] = {key: float(f"{value:.2g}") for key, value in found.items()}
        notify(f"{name}: differs by {found['float32']:.1e} from PEFT, by {found['rounded']:.1e} from alone")
        if not (found["float32"] < FLOAT32_TOLERANCE and found["rounded"] < ROUNDED_TOLERANCE):
            result.errors.append(f"{name}: tenants of one pass differ from each alone: {result.figures[name]}")
    return result


def _tenants(base: SharedBase) -> tuple[list[list[Window]], list[Lora]]:
    rng = Random(0)
    windows = [random_windows(rng) for _ in range(3)]
    torch.manual_seed(0)
    return windows, [random_lora(base, rng) for _ in windows]


def _difference_to_peft(base: SharedBase, base_dir: Path, work: Path) -> float:
    owners, loras = _tenants(base)
    packed = base.pack(owners)
    weighted = base.losses(packed, loras) * packed.weights
    found = []
    for windows, lora, (start, end) in zip(owners, loras, spans_of(packed.owner_targets), strict=True):
        losses = weighted[start:end]
        on_cpu = {layer: each.copy() for layer, each in lora.items()}
        expected, gradients = through_peft(base_dir, work, on_cpu, windows)
        found.append(_relative(losses.cpu(), expected))
        found += [_relative(each.cpu(), gradients[name]) for name, each in gradients_of(losses.sum(), lora)]
    return max(found)


def _difference_to_alone(base: SharedBase) -> float:
    owners, loras = _tenants(base)
    packed = base.pack(owners)
    together = base.losses(packed, loras)
    found = []
    for windows, lora, (start, end) in zip(owners, loras, spans_of(packed.owner_targets), strict=True):
        losses = together[start:end]
        alone = base.losses(base.pack([windows]), [lora])
        found.append(_relative(losses, alone))
        found.append(_relative(_gradients(losses, lora), _gradients(alone, lora)))
    return max(found)


def _gradients(losses: Tensor, lora: Lora) -> Tensor:
    return torch.cat([each.flatten() for _, each in gradients_of(losses.sum(), lora)])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def check_strategies(
    folder: Path, device: Device, notify: Notify, recipes: list[dict[str, Any]] = RECIPES
) -> PartResult:
    """Train an instance twice with each strategy and each method, with an interruption in the second session."""
    result = PartResult()
    base = SharedBase(tiny_base(folder / "base"), device)
    for number, recipe in enumerate(recipes):
        settings = load_settings(home=folder / str(number), base=str(base.folder))
        catalog, store = Catalog.open(settings), ObjectStore.open(settings)
        try:
            train_two_sessions(TrainerContext(base, catalog, store, owner="me", max_rank=16), recipe)
        except Exception as error:  # the others go on
            result.errors.append(f"{name_of(recipe)}: {type(error).__name__}: {error}".splitlines()[0])
        finally:
            catalog.close()
        notify(f"{name_of(recipe)}: {number + 1} of {len(recipes)}, {len(result.errors)} failed")
    result.figures["trained_twice"] = len(recipes) - len(result.errors)
    return result
