"""Adapters, importances and windows as the named tensors that safetensors can hold."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.strategies.strategy import Importance, State


def pack_lora(lora: Lora) -> State:
    """Its update, as factors of scale 1."""
    return {
        key: _own(tensor)
        for layer, factors in stack(lora).items()
        for key, tensor in ((f"a/{layer}", factors.a), (f"b/{layer}", factors.b))
    }


def unpack_lora(state: State, like: Lora) -> dict[str, Factors]:
    """What ``pack_lora`` was given, for the layers of ``like`` and on its device."""
    return {
        layer: Factors(state[f"a/{layer}"].to(factors.a.device), state[f"b/{layer}"].to(factors.a.device))
        for layer, factors in like.items()
    }


def pack_importance(importance: Mapping[str, Importance]) -> State:
    return {
        key: _own(tensor)
        for layer, of in importance.items()
        for key, tensor in ((f"rows/{layer}", of.rows), (f"columns/{layer}", of.columns))
    }


def unpack_importance(state: State, like: Lora) -> dict[str, Importance]:
    """What ``pack_importance`` was given, for the layers of ``like`` and on its device."""
    return {
        layer: Importance(state[f"rows/{layer}"].to(factors.a.device), state[f"columns/{layer}"].to(factors.a.device))
        for layer, factors in like.items()
    }


def pack_windows(windows: Sequence[Window]) -> State:
    """All their tokens, weights and call spans in a row each, and how many of them belong to each window."""
    return {
        "tokens": torch.tensor([token for window in windows for token in window.tokens], dtype=torch.int32),
        "weights": torch.tensor([weight for window in windows for weight in window.weights], dtype=torch.float32),
        "calls": torch.tensor([span for window in windows for span in window.calls], dtype=torch.int32).reshape(-1, 2),
        "token_offsets": _offsets([len(window) for window in windows]),
        "call_offsets": _offsets([len(window.calls) for window in windows]),
    }


def unpack_windows(state: State) -> list[Window]:
    """What ``pack_windows`` was given; none of nothing."""
    if not state:
        return []
    tokens, weights = state["tokens"].tolist(), state["weights"].tolist()
    calls = [(start, end) for start, end in state["calls"].tolist()]
    spans = zip(pairwise(state["token_offsets"].tolist()), pairwise(state["call_offsets"].tolist()), strict=True)
    return [Window(tuple(tokens[a:b]), tuple(weights[a:b]), tuple(calls[c:d])) for (a, b), (c, d) in spans]


def within(prefix: str, state: State) -> State:
    """The part of ``state`` that ``under`` put under ``prefix``."""
    return {key.removeprefix(f"{prefix}/"): tensor for key, tensor in state.items() if key.startswith(f"{prefix}/")}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}/{key}": tensor for key, tensor in state.items()}


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def _own(tensor: Tensor) -> Tensor:
    """A tensor that shares no memory: safetensors refuses those that do."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
