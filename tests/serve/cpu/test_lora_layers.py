"""LoRA in vLLM's CPU engine, compared with each row computed alone, and with vLLM's own kernel where that is right."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from looper.serve.cpu.lora_layers import TiledPunicaWrapper
from looper.serve.cpu.lora_slots import pack_factors

SLOTS, RANK, IN, OUT = 4, 8, 24, (32, 16)
IDS = [7, None, 5, 9]
"""Id of the adapter in each slot."""


def make_wrapper(wrapper_type: type[PunicaWrapperCPU], tokens: tuple[int, ...]) -> PunicaWrapperCPU:
    """Return a wrapper whose batch has a token of each of these adapters (0: none). The last one is sampled after."""
    wrapper = wrapper_type(64, 16, torch.device("cpu"))
    wrapper.update_metadata(LoRAMapping(tokens, tokens[-1:], is_prefill=True), IDS, SLOTS + 1, 100)
    return wrapper


def random_float32(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_bfloat16(*shape: int, seed: int) -> Tensor:
    return random_float32(*shape, seed=seed).bfloat16()


def stacked_factors() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    a = tuple(random_bfloat16(SLOTS, 1, RANK, IN, seed=i) for i in range(len(OUT)))
    return a, tuple(random_bfloat16(SLOTS, 1, out, RANK, seed=9 + i) for i, out in enumerate(OUT))


def add_lora(tokens: tuple[int, ...], y: Tensor, x: Tensor, scale: float = 1.0) -> None:
    """Add the adapters' updates. The slots point to the adapters, and vLLM's own slots are empty."""
    wrapper, (a, b) = make_wrapper(TiledPunicaWrapper, tokens), stacked_factors()
    empty = tuple(map(torch.zeros_like, a)), tuple(map(torch.zeros_like, b))
    for slot in range(SLOTS):
        wrapper.layer_slots(*empty).set_slot(
            slot, [pack_factors(a[i][slot, 0], b[i][slot, 0]) for i in range(len(OUT))]
        )
    wrapper.add_lora_linear(y, x, *empty, scale, OUT)


def add_lora_row_by_row(x: Tensor, y: Tensor, tokens: tuple[int, ...], scale: float) -> Tensor:
    a, b = stacked_factors()
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
def test_each_token_gets_only_its_own_adapter(tokens: tuple[int, ...], scale: float) -> None:
    x, y = random_float32(len(tokens), IN, seed=20), random_float32(len(tokens), sum(OUT), seed=21)
    actual = y.clone()
    add_lora(tokens, actual, x, scale)
    torch.testing.assert_close(actual, add_lora_row_by_row(x, y, tokens, scale))
    if 0 not in tokens:
        expected = y.clone()
        make_wrapper(PunicaWrapperCPU, tokens).add_lora_linear(expected, x, *stacked_factors(), scale, OUT)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("tokens", [(7,), (7, 0, 9) + (5,) * 6])
def test_rows_in_bfloat16_are_summed_in_float32_and_rounded_once(tokens: tuple[int, ...]) -> None:
    x, y = random_bfloat16(len(tokens), IN, seed=20), random_bfloat16(len(tokens), sum(OUT), seed=21)
    actual = y.clone()
    add_lora(tokens, actual, x)
    expected = add_lora_row_by_row(x.float(), y.float(), tokens, 1.0)
    torch.testing.assert_close(actual, expected.bfloat16(), rtol=2**-7, atol=2**-16)
    assert (actual == expected.bfloat16()).float().mean() > 0.99, "nearly all: the sums may differ in their last bit"


def test_a_slot_has_the_adapter_that_it_was_set_to_last_of_any_rank() -> None:
    x = random_float32(1, IN, seed=20)
    wrapper = make_wrapper(TiledPunicaWrapper, (9,))
    slots, slot = stacked_factors(), IDS.index(9)
    layer = wrapper.layer_slots(*slots)
    for rank in (8, 3, 16):
        a, b = random_float32(rank, IN, seed=1), random_float32(OUT[1], rank, seed=2)
        layer.set_slot(slot, [None, pack_factors(a, b)])
        y = torch.zeros(1, sum(OUT))
        wrapper.add_lora_linear(y, x, *slots, 1.0, OUT)
        assert not y[:, : OUT[0]].any(), "an adapter may leave a slice unchanged"
        torch.testing.assert_close(y[0, OUT[0] :], b.bfloat16().float() @ (a.bfloat16().float() @ x[0]))
    layer.set_slot(slot, [None, None])
    y = torch.zeros(1, sum(OUT))
    wrapper.add_lora_linear(y, x, *slots, 1.0, OUT)
    assert not y.any()


def test_rows_that_pad_a_batch_are_unchanged() -> None:
    x, y = random_float32(5, IN, seed=20), torch.zeros(5, sum(OUT))
    add_lora((7, 5), y, x)
    assert y[:2].any()
    assert not y[2:].any()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_each_compute_thread_has_a_core_of_its_own() -> None:
    code = (
        "import os, torch; from looper.serve.cpu.openmp import bind_threads; x = torch.ones(999, 999); "
        "cores = sorted(os.sched_getaffinity(0)); torch.set_num_threads(len(cores)); bind_threads(cores); x @ x; "
        "bound = [os.sched_getaffinity(int(thread)) for thread in os.listdir('/proc/self/task')]; "
        "print(*sorted(core.pop() for core in bound if len(core) == 1))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(core) for core in ran.stdout.split()] == sorted(os.sched_getaffinity(0))
