"""The LoRA of vLLM's CPU engine, against each row computed by itself, and against vLLM's own where that is right."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from looper.serve.cpu.lora_kernel import factors as laid_out
from looper.serve.cpu.lora_layers import TiledPunicaWrapper

SLOTS, RANK, IN, OUT = 4, 8, 24, (32, 16)
IDS = [7, None, 5, 9]
"""Adapter in each slot."""


def engine(wrapper: type[PunicaWrapperCPU], tokens: tuple[int, ...]) -> PunicaWrapperCPU:
    """A wrapper whose batch has these adapters' tokens, 0 for none; the last is sampled after."""
    made = wrapper(64, 16, torch.device("cpu"))
    made.update_metadata(LoRAMapping(tokens, tokens[-1:], is_prefill=True), IDS, SLOTS + 1, 100)
    return made


def weights(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(*shape: int, seed: int) -> Tensor:
    return weights(*shape, seed=seed).bfloat16()


def stacks() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    a = tuple(factors(SLOTS, 1, RANK, IN, seed=i) for i in range(len(OUT)))
    return a, tuple(factors(SLOTS, 1, out, RANK, seed=9 + i) for i, out in enumerate(OUT))


def ours(tokens: tuple[int, ...], y: Tensor, x: Tensor, scale: float = 1.0) -> None:
    """Add what adapters that lie anywhere add, vLLM's slots being empty."""
    wrapper, (a, b) = engine(TiledPunicaWrapper, tokens), stacks()
    empty = tuple(map(torch.zeros_like, a)), tuple(map(torch.zeros_like, b))
    for slot in range(SLOTS):
        wrapper.layer(*empty).point(slot, [laid_out(a[i][slot, 0], b[i][slot, 0]) for i in range(len(OUT))])
    wrapper.add_lora_linear(y, x, *empty, scale, OUT)


def row_by_row(x: Tensor, y: Tensor, tokens: tuple[int, ...], scale: float) -> Tensor:
    a, b = stacks()
    expected = y.clone()
    for row, adapter in enumerate(tokens):
        if adapter:
            slot = IDS.index(adapter)
            update = [scale * b[i][slot, 0].float() @ (a[i][slot, 0].float() @ x[row]) for i in range(len(OUT))]
            expected[row] += torch.cat(update)
    return expected


@pytest.mark.parametrize(
    "tokens",
    [
        (7,),
        (5, 5, 5),
        (7, 9, 5, 7),
        (0, 9, 0),
        (0, 0),
        (0,) * 9 + (5,),
        (5,) * 30 + (0,) * 3 + (9,) * 20,
        (7, 0, 9) + (5,) * 12 + (9, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_each_token_gets_its_own_adapter_and_no_other(tokens: tuple[int, ...], scale: float) -> None:
    x, y = weights(len(tokens), IN, seed=20), weights(len(tokens), sum(OUT), seed=21)
    mine = y.clone()
    ours(tokens, mine, x, scale)
    torch.testing.assert_close(mine, row_by_row(x, y, tokens, scale))
    if 0 not in tokens:
        theirs = y.clone()
        engine(PunicaWrapperCPU, tokens).add_lora_linear(theirs, x, *stacks(), scale, OUT)
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("tokens", [(7,), (7, 0, 9) + (5,) * 6])
def test_rows_in_bfloat16_are_summed_in_float32_and_rounded_once(tokens: tuple[int, ...]) -> None:
    x, y = factors(len(tokens), IN, seed=20), factors(len(tokens), sum(OUT), seed=21)
    mine = y.clone()
    ours(tokens, mine, x)
    expected = row_by_row(x.float(), y.float(), tokens, 1.0)
    torch.testing.assert_close(mine, expected.bfloat16(), rtol=2**-7, atol=2**-16)
    assert (mine == expected.bfloat16()).float().mean() > 0.99, "nearly all, as sums differ in their last bit"


def test_a_slot_has_what_it_was_pointed_to_last_of_whatever_rank() -> None:
    x = weights(1, IN, seed=20)
    wrapper = engine(TiledPunicaWrapper, (9,))
    slots, slot = stacks(), IDS.index(9)
    layer = wrapper.layer(*slots)
    for rank in (8, 3, 16):
        a, b = weights(rank, IN, seed=1), weights(OUT[1], rank, seed=2)
        layer.point(slot, [None, laid_out(a, b)])
        y = torch.zeros(1, sum(OUT))
        wrapper.add_lora_linear(y, x, *slots, 1.0, OUT)
        assert not y[:, : OUT[0]].any(), "an adapter may leave a part alone"
        torch.testing.assert_close(y[0, OUT[0] :], b.bfloat16().float() @ (a.bfloat16().float() @ x[0]))
    layer.point(slot, [None, None])
    y = torch.zeros(1, sum(OUT))
    wrapper.add_lora_linear(y, x, *slots, 1.0, OUT)
    assert not y.any()


def test_rows_that_fill_a_batch_up_are_left_alone() -> None:
    x, y = weights(5, IN, seed=20), torch.zeros(5, sum(OUT))
    ours((7, 5), y, x)
    assert y[:2].any()
    assert not y[2:].any()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_each_thread_that_computes_has_a_core_of_its_own() -> None:
    code = (
        "import os, torch; from looper.serve.cpu.openmp import keep_apart; x = torch.ones(999, 999); "
        "cores = sorted(os.sched_getaffinity(0)); torch.set_num_threads(len(cores)); keep_apart(cores); x @ x; "
        "bound = [os.sched_getaffinity(int(thread)) for thread in os.listdir('/proc/self/task')]; "
        "print(*sorted(core.pop() for core in bound if len(core) == 1))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(core) for core in ran.stdout.split()] == sorted(os.sched_getaffinity(0))
