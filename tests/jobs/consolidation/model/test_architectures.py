"""Real architectures with random weights: what several owners train together equals each alone in plain PEFT."""

from pathlib import Path
from random import Random

import pytest
import torch

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.errors import InvalidInput
from tests.architectures import ARCHITECTURES, REFUSED, SLIDING_WINDOW, architecture_base
from tests.jobs.consolidation.data.test_packing import gradients_of, random_lora, random_windows, through_peft
from tests.tiny import FLOAT32


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cohort_has_the_losses_and_gradients_that_peft_gives_each_alone(name: str, tmp_path: Path) -> None:
    folder = architecture_base(tmp_path / "base", name)
    base, rng = SharedBase(folder, FLOAT32), Random(0)
    owners = [random_windows(rng) for _ in range(3)]
    assert max(len(window) for windows in owners for window in windows) > SLIDING_WINDOW
    loras = [random_lora(base, rng) for _ in owners]
    packed = base.pack(owners)
    weighted = base.losses(packed, loras) * packed.weights
    for windows, lora, losses in zip(owners, loras, weighted.split(list(packed.owner_targets)), strict=True):
        expected, gradients = through_peft(folder, tmp_path, lora, windows)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        for layer, gradient in gradients_of(losses.sum(), lora):
            difference = (gradient - gradients[layer]).abs().max() / gradients[layer].abs().max()
            assert difference < 1e-4, layer


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_not_supported_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Attention\) has a cap or sinks|attention in a model-specific way"):
        SharedBase(architecture_base(tmp_path, name), FLOAT32)
