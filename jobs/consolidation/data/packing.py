"""Pack the windows of several owners into one row of tokens, without padding and with shared prefixes computed once.

An owner is one member of a training step. All layers except attention work on each token by itself, so all windows are
laid end to end. The windows of an agent start with the same system prompt and tools. That shared prefix is stored once
for each owner, and the rest of each window attends to it. Values and gradients equal those of the windows one by one,
up to rounding. ``model/shared_base.py`` runs the packed batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from looper.jobs.consolidation.data.window import Window
from looper.platform.domain.errors import InvalidInput

OWNER_TOKENS_MULTIPLE = 16
"""Each owner's tokens are padded to a multiple of this, at the end of its first window, where nothing attends to them.

Libraries prepare a matrix product once per shape, which takes 4 ms on a CPU, and matrix units work in such tiles."""


@dataclass(frozen=True)
class PackedBatch:
    """L tokens of R windows, with M targets to predict."""

    tokens: Tensor
    """Token ids, ``[1, L]``, owner after owner."""
    positions: Tensor
    """Position of each token in its window, ``[1, L]``."""
    sizes: tuple[int, ...]
    """Tokens of each owner. Their sum is L."""
    windows: Tensor
    """Indices of each window's tokens, ``[R, T]``, the shared prefix first. Padding at the end repeats a token of the
    same window: nothing attends to it, and no token of another owner gets in."""
    restore: Tensor
    """Index of each token in the flattened ``windows``, ``[L]``. A shared token counts in the first window."""
    predictors: Tensor
    """Indices of the tokens before each target, ``[M]``, window by window in the given order."""
    targets: Tensor
    """Token ids of the targets, ``[M]``."""
    weights: Tensor
    """Weight of each target's loss, ``[M]``."""
    target_sizes: tuple[int, ...]
    """Targets of each window. Their sum is M."""
    owner_targets: tuple[int, ...]
    """Targets of each owner. Their sum is M."""


def pack_windows(owners: Sequence[Sequence[Window]], device: torch.device) -> PackedBatch:
    """Pack the windows of each owner into one batch.

    Args:
        owners: The windows of each owner, at least one for each.
        device: Where the tensors go.

    Returns:
        The packed batch.
    """
    layout = _PackBuilder()
    for windows in owners:
        layout.add(windows)
    return layout.finish(device)


class _PackBuilder:
    def __init__(self) -> None:
        self.size = 0
        self.tokens: list[NDArray[np.int32]] = []
        self.positions: list[NDArray[np.intp]] = []
        self.sizes: list[int] = []
        self.windows: list[NDArray[np.intp]] = []
        self.predictors: list[NDArray[np.intp]] = []
        self.targets: list[NDArray[np.int32]] = []
        self.weights: list[NDArray[np.float32]] = []
        self.target_sizes: list[int] = []
        self.owner_targets: list[int] = []

    def add(self, windows: Sequence[Window]) -> None:
        before, targets_before, first = self.size, sum(self.target_sizes), len(self.windows)
        shared = shared_prefix_length(windows)
        beginning = self._lay(windows[0].tokens[:shared], 0)
        for window in windows:
            places = np.concatenate([beginning, self._lay(window.tokens[shared:], shared)])
            self.windows.append(places)
            targets = window.target_places
            self.predictors.append(places[targets - 1])
            self.targets.append(window.tokens[targets])
            self.weights.append(window.weights[targets])
            self.target_sizes.append(len(targets))
        missing = -(self.size - before) % OWNER_TOKENS_MULTIPLE
        padding = self._lay(np.repeat(windows[0].tokens[:1], missing), 0)
        self.windows[first] = np.concatenate([self.windows[first], padding])
        self.sizes.append(self.size - before)
        self.owner_targets.append(sum(self.target_sizes) - targets_before)

    def _lay(self, tokens: NDArray[np.int32], position: int) -> NDArray[np.intp]:
        start = self.size
        self.size += len(tokens)
        self.tokens.append(tokens)
        self.positions.append(np.arange(position, position + len(tokens)))
        return np.arange(start, self.size)

    def finish(self, device: torch.device) -> PackedBatch:
        longest = max(map(len, self.windows))
        restore = np.zeros(self.size, np.intp)
        for row, places in reversed(list(enumerate(self.windows))):
            restore[places] = row * longest + np.arange(len(places))

        def ids(parts: Sequence[NDArray[Any]]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

        return PackedBatch(
            tokens=ids(self.tokens)[None],
            positions=ids(self.positions)[None],
            sizes=tuple(self.sizes),
            windows=ids([np.pad(places, (0, longest - len(places)), "edge") for places in self.windows]).view(
                -1, longest
            ),
            restore=ids([restore]),
            predictors=ids(self.predictors),
            targets=ids(self.targets),
            weights=torch.from_numpy(np.concatenate(self.weights)).to(device),
            target_sizes=tuple(self.target_sizes),
            owner_targets=tuple(self.owner_targets),
        )


def shared_prefix_length(windows: Sequence[Window]) -> int:
    """Return how many tokens all windows start with. Each window keeps at least one token of its own.

    Args:
        windows: The windows of one owner.

    Returns:
        The length of the shared prefix; 0 for a single window.
    """
    if len(windows) < 2:
        return 0
    first = windows[0].tokens
    shared = min(len(window) for window in windows) - 1
    for window in windows[1:]:
        differs = first[:shared] != window.tokens[:shared]
        if differs.any():
            shared = int(differs.argmax())
    return shared


def packed_size(windows: Sequence[Window]) -> int:
    """Return how many tokens ``windows`` of one owner take when packed, without padding."""
    return sum(map(len, windows)) - (len(windows) - 1) * shared_prefix_length(windows)


def split_into_passes(
    batches: Sequence[Sequence[Window]], tokens: int, uncut: Sequence[list[Window]] = ()
) -> Iterator[dict[int, list[Window]]]:
    """Split batches into passes of at most ``tokens`` packed tokens.

    The windows of an owner stay together if they fit, so that they share their prefix. A window that is longer than
    ``tokens`` is a pass by itself. Owners with windows of similar lengths share a pass, which keeps the padding of
    attention small.

    Args:
        batches: One batch of windows for each owner.
        tokens: Maximum packed tokens of a pass.
        uncut: Further lists of windows that are never split or reordered. They are numbered after ``batches``.

    Yields:
        For each pass, the windows by the number of their owner.
    """
    pieces = [(number, piece) for number, batch in enumerate(batches) for piece in _split_batch(batch, tokens)]
    pieces += enumerate(uncut, len(batches))
    pieces.sort(key=lambda piece: max(map(len, piece[1])))
    part: dict[int, list[Window]] = {}
    size = 0
    for number, piece in pieces:
        more = packed_size(piece)
        if part and (size + more > tokens or number in part):
            yield part
            part, size = {}, 0
        part[number] = piece
        size += more
    if part:
        yield part


def _split_batch(batch: Sequence[Window], tokens: int) -> Iterator[list[Window]]:
    piece: list[Window] = []
    for window in sorted(batch, key=len):
        if piece and packed_size([*piece, window]) > tokens:
            yield piece
            piece = []
        piece.append(window)
    if piece:
        yield piece


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    pack: PackedBatch,
    attention_dtype: torch.dtype,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each window, with the signature that transformers' models call.

    Args:
        module: The attention module that calls.
        query: ``[1, H, L, D]``.
        key: ``[1, G, L, D]``, with G groups of heads.
        value: ``[1, G, L, D]``.
        attention_mask: Always None, because the windows tell what attends to what.
        pack: The packed batch.
        attention_dtype: Number format in which it is computed.
        scaling: Factor of the scores; None for 1 / sqrt(D).
        sliding_window: Tokens that each token attends to, itself included; None for all before it.
        softcap: Cap of the scores; only None is supported.
        s_aux: Attention sinks; only None is supported.

    Returns:
        The output, ``[1, L, H, D]``, and None for the attention weights.

    Raises:
        InvalidInput: If the model caps its scores or has attention sinks.
    """
    if softcap is not None or s_aux is not None:
        raise InvalidInput(
            f"the base model's attention ({type(module).__name__}) has a cap or sinks, which consolidation does not "
            "support: choose another base model"
        )
    heads = query.shape[1]
    q, k, v = (_gather_windows(x, pack.windows) for x in (query, key, value))
    q, k, v = q.to(attention_dtype), k.to(attention_dtype), v.to(attention_dtype)
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    mask = None
    if sliding_window is not None and sliding_window < pack.windows.shape[1]:
        mask = _sliding_mask(pack.windows.shape[1], sliding_window, q.device)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    laid = out.to(query.dtype).transpose(1, 2).flatten(0, 1)
    return laid.index_select(0, pack.restore).unsqueeze(0), None


def _sliding_mask(length: int, sliding_window: int, device: torch.device) -> Tensor:
    """Return which of the tokens in the columns each token in the rows attends to, ``[length, length]``."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < sliding_window)


def _gather_windows(x: Tensor, windows: Tensor) -> Tensor:
    """Turn ``[1, H, L, D]`` into ``[R, H, T, D]``."""
    tokens = x[0].transpose(0, 1)  # [L, H, D]
    taken = tokens.flatten(1).index_select(0, windows.flatten())
    return taken.view(*windows.shape, *tokens.shape[1:]).transpose(1, 2)


def spans_of(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open spans of consecutive pieces with ``sizes``."""
    return pairwise(chain([0], accumulate(sizes)))
