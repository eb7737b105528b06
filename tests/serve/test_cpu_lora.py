"""The LoRA of vLLM's CPU engine, against each row computed by itself, and against vLLM's own where that is right."""

import pytest
import torch
from torch import Tensor
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from looper.serve.cpu_lora import TiledLora

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
    a, b = stacks()
    ours = y.clone()
    engine(TiledLora, tokens).add_lora_linear(ours, x, a, b, scale, OUT)
    torch.testing.assert_close(ours, row_by_row(x, y, tokens, scale))
    if 0 not in tokens:
        theirs = y.clone()
        engine(PunicaWrapperCPU, tokens).add_lora_linear(theirs, x, *stacks(), scale, OUT)
        torch.testing.assert_close(ours, theirs)


def test_what_vllm_writes_into_a_slot_counts_from_then_on() -> None:
    x = weights(1, IN, seed=20)
    a, b = stacks()
    wrapper = engine(TiledLora, (9,))
    wrapper.add_lora_linear(torch.zeros(1, sum(OUT)), x, a, b, 1.0, OUT)
    slot = IDS.index(9)
    for i, out in enumerate(OUT):  # as set_lora does
        b[i][slot, 0, :out, :RANK].copy_(torch.ones(out, RANK))
    y = torch.zeros(1, sum(OUT))
    wrapper.add_lora_linear(y, x, a, b, 1.0, OUT)
    shrunk = [(a[i][slot, 0].float() @ x[0]).sum() for i in range(len(OUT))]
    torch.testing.assert_close(y[0], torch.cat([each.expand(out) for each, out in zip(shrunk, OUT, strict=True)]))


def test_rows_that_fill_a_batch_up_are_left_alone() -> None:
    x, y = weights(5, IN, seed=20), torch.zeros(5, sum(OUT))
    engine(TiledLora, (7, 5)).add_lora_linear(y, x, *stacks(), 1.0, OUT)
    assert y[:2].any()
    assert not y[2:].any()


@pytest.mark.parametrize("last", [5, 0])
def test_logits_are_those_of_the_sampled_row_s_adapter(last: int) -> None:
    x, y = weights(1, IN, seed=20), weights(1, 40, seed=21)
    a, b = factors(SLOTS, 1, RANK, IN, seed=1), factors(SLOTS, 1, 32, RANK, seed=2)
    ours = y.clone()
    engine(TiledLora, (7, last)).add_lora_logits(ours, x, a, b, 1.0)
    expected = y.clone()
    if last:
        expected[0, :32] += b[IDS.index(last), 0].float() @ (a[IDS.index(last), 0].float() @ x[0])
    torch.testing.assert_close(ours, expected)
