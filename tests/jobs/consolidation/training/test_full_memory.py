"""A pass that does not fit into the device's memory is halved, and training goes on with the same numbers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.packing import PackedBatch
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from tests.jobs.consolidation.data.test_preference import random_tenant
from tests.tiny import FLOAT32

pytestmark = pytest.mark.usefixtures("one_process")


class SmallMemory:
    """Takes passes of so many tokens, and raises what a GPU raises for longer ones."""

    def __init__(self, base: SharedBase, tokens: int) -> None:
        self._run, self._tokens = base.losses, tokens
        self.sizes: list[int] = []

    def __call__(self, packed: PackedBatch, adapters: Sequence[ActiveAdapter]) -> Tensor:
        self.sizes.append(packed.tokens.numel())
        if self.sizes[-1] > self._tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._run(packed, adapters)


def test_a_pass_that_does_not_fit_is_halved_from_then_on(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = SharedBase(base_dir, FLOAT32)
    tenants = [random_tenant(base, seed) for seed in range(4)]
    expected = compute_losses_and_gradients(base, tenants)
    memory = SmallMemory(base, 160)
    monkeypatch.setattr(base, "losses", memory)
    found = compute_losses_and_gradients(base, tenants)
    for (loss, gradients), (whole_loss, whole) in zip(found, expected, strict=True):
        assert loss == pytest.approx(whole_loss, rel=1e-4)
        for ours, theirs in zip(gradients, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert memory.sizes[0] > 160
    memory.sizes.clear()
    compute_losses_and_gradients(base, tenants)
    assert max(memory.sizes) <= 160, "it is known now what fits"


def test_a_window_that_does_not_fit_alone_is_an_error(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = SharedBase(base_dir, FLOAT32)
    monkeypatch.setattr(base, "losses", SmallMemory(base, 1))
    with pytest.raises(torch.OutOfMemoryError):
        compute_losses_and_gradients(base, [random_tenant(base, 0, pairs=0)])
