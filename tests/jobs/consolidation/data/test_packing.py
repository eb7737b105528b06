"""Packed windows of several owners against each window by itself through plain PEFT and transformers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.config import PeftConfig
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.packing import packed_size, shared_prefix_length, split_into_passes
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.recipe import Recipe

VOCABULARY = 250


def window(*tokens: int, targets: int = 1) -> Window:
    """Of these tokens, the last ``targets`` are to be predicted."""
    return Window.of(tokens, (0.0,) * (len(tokens) - targets) + (1.0,) * targets, ())


def random_windows(rng: Random) -> list[Window]:
    """Some with a beginning in common, of any lengths, a part of their tokens weighted."""
    beginning = [rng.randrange(VOCABULARY) for _ in range(rng.choice([0, 1, 9]))]
    windows = []
    for _ in range(rng.randrange(1, 5)):
        tokens = (*beginning, *(rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 25))))
        weights = [rng.choice([0.0, 0.5, 1.0]) for _ in tokens[:-1]]
        windows.append(Window.of(tokens, (*weights, 1.0), ()))
    return windows


def random_lora(base: SharedBase, rng: Random) -> dict[str, Factors]:
    lora = base.init_adapter(Recipe(rank=rng.choice([1, 2, 5, 8]), alpha=rng.choice([4, 16]), seed=rng.randrange(99)))
    for factors in lora.values():
        torch.nn.init.normal_(factors.b, std=0.1)
    return lora


def through_peft(folder: Path, work: Path, lora: Lora, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted losses of all targets, window after window, and the gradients of their sum by PEFT's names."""
    (work / "adapter_model.safetensors").write_bytes(adapter_file.serialize_weights(lora))
    (work / "adapter_config.json").write_bytes(adapter_file.serialize_config(lora, str(folder)))
    config = PeftConfig.from_pretrained(str(work))
    config.inference_mode = False
    model = PeftModel(AutoModelForCausalLM.from_pretrained(folder), config)
    set_peft_model_state_dict(model, load((work / "adapter_model.safetensors").read_bytes()))
    losses = []
    for each in windows:
        tokens = torch.tensor(each.tokens[None], dtype=torch.long)
        weights = torch.from_numpy(each.weights[1:])
        loss = cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:], reduction="none") * weights
        losses.append(loss[weights > 0])
    torch.cat(losses).sum().backward()
    assert get_peft_model_state_dict(model).keys() == load(adapter_file.serialize_weights(lora)).keys()
    gradients = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return torch.cat(losses).detach(), gradients


@pytest.mark.parametrize("seed", range(6))
def test_any_cohort_has_the_losses_and_gradients_that_peft_gives_each_alone(
    base_dir: Path, device: Device, tmp_path: Path, seed: int
) -> None:
    rng = Random(seed)
    base = SharedBase(base_dir, device)
    owners = [random_windows(rng) for _ in range(rng.randrange(1, 6))]
    loras = [random_lora(base, rng) for _ in owners]
    packed = base.pack(owners)
    weighted = base.losses(packed, loras) * packed.weights
    for windows, lora, losses in zip(owners, loras, weighted.split(list(packed.owner_targets)), strict=True):
        expected, gradients = through_peft(base_dir, tmp_path, lora, windows)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        for name, gradient in gradients_of(losses.sum(), lora):
            difference = (gradient - gradients[name]).abs().max() / gradients[name].abs().max()
            assert difference < 1e-4, name


def test_a_bfloat16_base_gives_the_same_to_its_rounding(base_dir: Path, device: Device) -> None:
    rng = Random(0)
    whole, half = SharedBase(base_dir, device), SharedBase(base_dir, replace(device, dtype=torch.bfloat16))
    owners = [random_windows(rng) for _ in range(3)]
    loras = [random_lora(whole, rng) for _ in owners]

    def results(base: SharedBase) -> tuple[Tensor, Tensor]:
        packed = base.pack(owners)
        loss = (base.losses(packed, loras) * packed.weights).sum()
        found = [gradient for lora in loras for _, gradient in gradients_of(loss, lora)]
        assert {gradient.dtype for gradient in found} == {torch.float32}
        return loss.detach(), torch.cat([gradient.flatten() for gradient in found])

    (loss, gradients), (rounded_loss, rounded) = results(whole), results(half)
    assert 0 < (rounded_loss - loss).abs() < 0.01 * loss
    assert cosine_similarity(rounded, gradients, dim=0) > 0.99


def gradients_of(loss: Tensor, lora: Lora) -> Iterator[tuple[str, Tensor]]:
    for layer, factors in lora.items():
        for side, tensor in (("A", factors.a), ("B", factors.b)):
            (gradient,) = torch.autograd.grad(loss, tensor, retain_graph=True)
            yield f"base_model.model.{layer}.lora_{side}.weight", gradient


def test_what_one_owner_holds_cannot_reach_another(base_dir: Path, device: Device) -> None:
    base = SharedBase(base_dir, device)
    rng = Random(1)
    owners = [random_windows(rng) for _ in range(3)]
    loras = [random_lora(base, rng) for _ in owners]

    def results() -> list[tuple[Tensor, ...]]:
        packed = base.pack(owners)
        losses = base.losses(packed, loras).split(list(packed.owner_targets))
        trained = [[side for each in lora.values() for side in (each.a, each.b)] for lora in loras]
        together = torch.stack([loss.sum() for loss in losses]).sum()
        gradients = iter(torch.autograd.grad(together, [tensor for each in trained for tensor in each]))
        return [(loss, *[next(gradients) for _ in each]) for loss, each in zip(losses, trained, strict=True)]

    healthy = results()
    with torch.no_grad():
        next(iter(loras[1].values())).b.fill_(float("nan"))
    ill = results()
    assert not torch.isfinite(ill[1][0]).any()
    for number in (0, 2):
        for before, after in zip(healthy[number], ill[number], strict=True):
            assert torch.equal(before, after)


def test_a_shared_beginning_is_there_once() -> None:
    windows = [window(1, 2, 3, 4), window(1, 2, 5), window(1, 2, 3, 6, 7)]
    assert shared_prefix_length(windows) == 2
    assert packed_size(windows) == 4 + 3 + 5 - 2 * 2
    assert shared_prefix_length(windows[:1]) == 0
    assert shared_prefix_length([window(1, 2), window(1, 2, 3)]) == 1  # each keeps a token of its own


def test_batches_are_cut_into_parts_that_fit() -> None:
    long, short = [window(*range(50)) for _ in range(3)], [window(*range(100 + k, 106 + k)) for k in range(4)]
    parts = list(split_into_passes([long, short], 60))
    assert (
        sorted(each for part in parts for windows in part.values() for each in map(len, windows)) == [6] * 4 + [50] * 3
    )
    assert all(sum(map(packed_size, part.values())) <= 60 for part in parts)
    together = list(split_into_passes([short, short], 60))
    assert [sorted(part) for part in together] == [[0, 1]]
    (alone,) = split_into_passes([[window(*range(100))]], 60)
    assert list(alone) == [0]
