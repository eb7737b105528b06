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

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from looper.jobs.consolidation.data.encode import Window
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
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.sizes: list[int] = []
        self.windows: list[list[int]] = []
        self.predictors: list[int] = []
        self.targets: list[int] = []
        self.weights: list[float] = []
        self.target_sizes: list[int] = []
        self.owner_targets: list[int] = []

    def add(self, windows: Sequence[Window]) -> None:
        before, targets_before, first = len(self.tokens), len(self.targets), len(self.windows)
        shared = shared_prefix_length(windows)
        beginning = self._lay(windows[0].tokens[:shared], 0)
        for window in windows:
            places = [*beginning, *self._lay(window.tokens[shared:], shared)]
            self.windows.append(places)
            targets = window.target_places
            self.predictors += [places[i - 1] for i in targets]
            self.targets += [window.tokens[i] for i in targets]
            self.weights += [window.weights[i] for i in targets]
            self.target_sizes.append(len(targets))
        missing = -(len(self.tokens) - before) % OWNER_TOKENS_MULTIPLE
        self.windows[first] += self._lay(windows[0].tokens[:1] * missing, 0)
        self.sizes.append(len(self.tokens) - before)
        self.owner_targets.append(len(self.targets) - targets_before)

    def _lay(self, tokens: Sequence[int], position: int) -> range:
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        return range(start, len(self.tokens))

    def finish(self, device: torch.device) -> PackedBatch:
        longest = max(map(len, self.windows))
        restore = [0] * len(self.tokens)
        for row, places in reversed(list(enumerate(self.windows))):
            for column, token in enumerate(places):
                restore[token] = row * longest + column

        def ids(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return PackedBatch(
            tokens=ids([self.tokens]),
            positions=ids([self.positions]),
            sizes=tuple(self.sizes),
            windows=ids([places + places[-1:] * (longest - len(places)) for places in self.windows]),
            restore=ids(restore),
            predictors=ids(self.predictors),
            targets=ids(self.targets),
            weights=torch.tensor(self.weights, device=device),
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
    first, last = (
        min(w.tokens for w in windows),
        max(w.tokens for w in windows),
    )  # in lexicographic order, all others lie between these
    most = min(len(window) for window in windows) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


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
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each window, with the signature that transformers' models call.

    Args:
        module: The attention module that calls; unused.
        query: ``[1, H, L, D]``.
        key: ``[1, G, L, D]``, with G groups of heads.
        value: ``[1, G, L, D]``.
        attention_mask: Always None, because the windows tell what attends to what.
        pack: The packed batch.
        scaling: Factor of the scores; None for 1 / sqrt(D).
        sliding_window: Tokens that the base model's attention slides over, if it does.

    Returns:
        The output, ``[1, L, H, D]``, and None for the attention weights.

    Raises:
        InvalidInput: If a window is longer than ``sliding_window``.
    """
    if sliding_window is not None and sliding_window < pack.windows.shape[1]:
        raise InvalidInput(
            f"a window of {pack.windows.shape[1]} tokens is longer than the {sliding_window} that the base model's "
            "attention slides over: lower the recipe's max_seq_length"
        )
    heads = query.shape[1]
    q, k, v = (_gather_windows(x, pack.windows) for x in (query, key, value))
    if query.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()  # on a CPU, short windows take twice as long in bfloat16
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    laid = out.to(query.dtype).transpose(1, 2).flatten(0, 1)
    return laid.index_select(0, pack.restore).unsqueeze(0), None


def _gather_windows(x: Tensor, windows: Tensor) -> Tensor:
    """Turn ``[1, H, L, D]`` into ``[R, H, T, D]``."""
    tokens = x[0].transpose(0, 1)  # [L, H, D]
    taken = tokens.flatten(1).index_select(0, windows.flatten())
    return taken.view(*windows.shape, *tokens.shape[1:]).transpose(1, 2)


def spans_of(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open spans of consecutive pieces with ``sizes``."""
    return pairwise(chain([0], accumulate(sizes)))
