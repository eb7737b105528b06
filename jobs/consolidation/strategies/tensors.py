"""Adapters, importances and windows as named tensors, which safetensors can hold.

Strategies use them for their state, and the trainer for its checkpoints.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import Importance, StrategyState


def pack_lora(lora: Lora) -> StrategyState:
    """Return the update of ``lora`` as named tensors, with factors of scale 1."""
    return {
        key: _contiguous_cpu_copy(tensor)
        for layer, factors in stack_adapters(lora).items()
        for key, tensor in ((f"a/{layer}", factors.a), (f"b/{layer}", factors.b))
    }


def unpack_lora(state: StrategyState, like: Lora) -> dict[str, Factors]:
    """Return the adapter that ``pack_lora`` packed.

    Args:
        state: The named tensors.
        like: An adapter that tells the layers and the device.
    """
    return {
        layer: Factors(state[f"a/{layer}"].to(factors.a.device), state[f"b/{layer}"].to(factors.a.device))
        for layer, factors in like.items()
    }


def pack_importance(importance: Mapping[str, Importance]) -> StrategyState:
    """Return ``importance``, by layer, as named tensors."""
    return {
        key: _contiguous_cpu_copy(tensor)
        for layer, of in importance.items()
        for key, tensor in ((f"rows/{layer}", of.rows), (f"columns/{layer}", of.columns))
    }


def unpack_importance(state: StrategyState, like: Lora) -> dict[str, Importance]:
    """Return the importance that ``pack_importance`` packed.

    Args:
        state: The named tensors.
        like: An adapter that tells the layers and the device.
    """
    return {
        layer: Importance(state[f"rows/{layer}"].to(factors.a.device), state[f"columns/{layer}"].to(factors.a.device))
        for layer, factors in like.items()
    }


def pack_windows(windows: Sequence[Window]) -> StrategyState:
    """Return ``windows`` as tensors: all tokens, weights and call spans in a row, with each window's offsets."""
    return {
        "tokens": torch.from_numpy(np.concatenate([np.empty(0, np.int32), *(window.tokens for window in windows)])),
        "weights": torch.from_numpy(np.concatenate([np.empty(0, np.float32), *(window.weights for window in windows)])),
        "calls": torch.tensor([span for window in windows for span in window.calls], dtype=torch.int32).reshape(-1, 2),
        "token_offsets": _offsets([len(window) for window in windows]),
        "call_offsets": _offsets([len(window.calls) for window in windows]),
    }


def unpack_windows(state: StrategyState) -> list[Window]:
    """Return the windows that ``pack_windows`` packed into ``state``. An empty state holds no windows."""
    if not state:
        return []
    tokens, weights = state["tokens"].numpy(), state["weights"].numpy()
    calls = [(start, end) for start, end in state["calls"].tolist()]
    spans = zip(pairwise(state["token_offsets"].tolist()), pairwise(state["call_offsets"].tolist()), strict=True)
    return [Window(tokens[a:b], weights[a:b], tuple(calls[c:d])) for (a, b), (c, d) in spans]


def select_prefix(prefix: str, state: StrategyState) -> StrategyState:
    """Return the part of ``state`` that ``add_prefix`` put under ``prefix``, without the prefix."""
    return {key.removeprefix(f"{prefix}/"): tensor for key, tensor in state.items() if key.startswith(f"{prefix}/")}


def add_prefix(prefix: str, state: StrategyState) -> StrategyState:
    """Return ``state`` with ``prefix`` and a slash before each name."""
    return {f"{prefix}/{key}": tensor for key, tensor in state.items()}


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def _contiguous_cpu_copy(tensor: Tensor) -> Tensor:
    """Return a copy that shares no memory, because safetensors refuses tensors that do."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
