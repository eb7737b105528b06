"""A base in parts, over two real workers with DeepSpeed, against the whole one in each of them."""

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model import head
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.session_setup import start_session
from tests.jobs.episodes import RECIPE
from tests.tiny import FLOAT32


def test_a_sharded_base_is_in_the_number_format_of_the_device(base_dir: Path, tmp_path: Path) -> None:
    told = (base_dir, str(tmp_path / "rendezvous"), replace(FLOAT32, dtype=torch.bfloat16))
    torch.multiprocessing.spawn(work, told, nprocs=2)


def work(rank: int, base_dir: Path, rendezvous: str, device: Device) -> None:
    """One of two workers, in a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    whole, parts = SharedBase(base_dir, device), SharedBase(base_dir, device, sharded=True)
    for layer in parts.linear_layers.values():
        part = part_of(layer)
        assert part.dtype is layer.weight.dtype is device.dtype
        assert 2 * part.numel() == layer.in_features * layer.out_features
    assert computes_in(parts) == {device.dtype}
    # The order of sums depends on the processor: twice the rounding of one number, since 0.0079 was seen for 0.0078.
    (expected_loss, expected), rounding = step(whole), 2 * torch.finfo(device.dtype).eps
    for logits, recomputes in ((head.MAX_LOGITS, False), (400 * parts.vocab_size, True)):
        head.MAX_LOGITS, parts.recomputes = logits, recomputes  # in each pass, the head runs once or 3 times
        for _ in range(2):
            loss, gradients = step(parts)
            assert abs(loss - expected_loss) <= rounding * expected_loss
            assert (gradients - expected).norm() <= rounding * expected.norm()
    dist.destroy_process_group()


def part_of(layer: nn.Linear) -> Tensor:
    """What this worker keeps of its weight."""
    part: Tensor = layer.weight.ds_tensor
    return part


def computes_in(base: SharedBase) -> set[torch.dtype]:
    """The formats of what goes from layer to layer."""
    found: set[torch.dtype] = set()

    def watch(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        found.add(output.dtype)

    handles = [layer.register_forward_hook(watch) for layer in base.linear_layers.values()]
    with torch.no_grad():
        base.logits(base.pack([windows()]), [])
    for handle in handles:
        handle.remove()
    return found


def step(base: SharedBase) -> tuple[float, Tensor]:
    """The loss of both workers, and the gradients of this one, in a row."""
    tenant = start_session(base, RECIPE, windows(), start(base), {})
    ((loss, gradients),) = compute_losses_and_gradients(base, [tenant])
    return loss, torch.cat([each.flatten() for each in gradients])


def start(base: SharedBase) -> Lora:
    """A version whose update is not zero."""
    torch.manual_seed(0)
    fresh = base.init_adapter(RECIPE)
    return {
        layer: Factors(each.a.detach(), 0.1 * torch.randn_like(each.b), each.scale) for layer, each in fresh.items()
    }


def windows() -> list[Window]:
    rng = Random(0)
    tokens = [tuple(rng.randrange(250) for _ in range(length)) for length in (5, 9, 14, 20)]
    return [Window.of(each, (0.0, 0.0, *[1.0] * (len(each) - 2)), ()) for each in tokens]
