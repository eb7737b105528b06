"""Few logits at a time, and activations that are computed again, change no loss and no gradient."""

from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.model import head
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies.fisher import estimate_update_importance
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.session_setup import start_session
from tests.architectures import architecture_base
from tests.jobs.consolidation.data.test_packing import random_lora, random_windows
from tests.jobs.consolidation.data.test_preference import PREFERRING, random_pairs
from tests.tiny import FLOAT32

EQUAL = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def base(base_dir: Path) -> SharedBase:
    return SharedBase(base_dir, FLOAT32)


def few_logits(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, the head runs for three tokens at a time."""
    monkeypatch.setattr(head, "MAX_LOGITS", 3 * base.vocab_size)


# Granite scales its logits, Gemma-3 and the mixture return more from their blocks than Llama.
@pytest.mark.parametrize("name", ["Llama", "Gemma-3", "Granite", "Qwen3-MoE"])
def test_losses_and_gradients_are_those_of_all_logits_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rng = SharedBase(architecture_base(tmp_path, name), FLOAT32), Random(0)
    packed = base.pack([random_windows(rng) for _ in range(3)])
    loras = [random_lora(base, rng) for _ in packed.sizes]
    trained = [each for lora in loras for factors in lora.values() for each in (factors.a, factors.b)]

    def results(losses: Tensor) -> tuple[Tensor, ...]:
        return losses.detach(), *torch.autograd.grad((losses * packed.weights).sum(), trained)

    expected = results(cross_entropy(base.logits(packed, loras), packed.targets, reduction="none"))
    few_logits(base, monkeypatch)
    assert len(packed.targets) > 30
    torch.testing.assert_close(results(base.losses(packed, loras)), expected, **EQUAL)
    base.recomputes = True
    torch.testing.assert_close(results(base.losses(packed, loras)), expected, **EQUAL)
    again = cross_entropy(base.logits(packed, loras), packed.targets, reduction="none")
    torch.testing.assert_close(results(again), expected, **EQUAL)
    with torch.no_grad():
        torch.testing.assert_close(base.losses(packed, loras), expected[0], **EQUAL)


@pytest.mark.usefixtures("one_process")
def test_tenants_of_all_methods_learn_the_same_in_one_pass(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """With preference pairs, whose loss is no sum over tokens."""
    tenants = []
    for seed, method in enumerate(("lora", "dora", "rslora", "adalora", "lora+")):
        recipe = PREFERRING.model_copy(update={"method": method, "seed": seed})
        windows = random_windows(Random(seed)) * 3
        tenants.append(start_session(base, recipe, windows, None, {}, random_pairs(seed, 9)))
        rng = torch.Generator().manual_seed(seed)
        for parameter in tenants[-1].trainable:  # so that all have gradients
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=rng)
    expected = compute_losses_and_gradients(base, tenants)
    few_logits(base, monkeypatch)
    monkeypatch.setattr(base, "recomputes", True)
    for found, wanted in zip(compute_losses_and_gradients(base, tenants), expected, strict=True):
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        torch.testing.assert_close(found[1], wanted[1], **EQUAL)


def test_the_importance_of_entries_is_the_same(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hooks on the layers see the layers run again, and must not count that."""
    rng = Random(1)
    lora, windows = random_lora(base, rng), random_windows(rng)
    expected = estimate_update_importance(base, lora, windows)
    monkeypatch.setattr(base, "recomputes", True)
    for layer, found in estimate_update_importance(base, lora, windows).items():
        torch.testing.assert_close(found.rows, expected[layer].rows, **EQUAL)
        torch.testing.assert_close(found.columns, expected[layer].columns, **EQUAL)


def test_less_is_kept_when_activations_are_computed_again(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all that is above would hold without anything being computed again."""
    packed, lora = base.pack([random_windows(Random(2))]), random_lora(base, Random(2))

    def kept() -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            base.losses(packed, [lora])
        return sum(sizes.values())

    everything = kept()
    monkeypatch.setattr(base, "recomputes", True)
    assert kept() < everything / 2
