"""Windows of several owners as one row of tokens, without padding, and without computing a shared beginning twice.

Everything but attention works on each token by itself, so all windows are laid end to end. An agent's windows begin
alike, with the same system prompt and tools: of one owner's windows, the beginning that all share is there once, and
each window's own rest attends to it. Values and gradients are those of the windows taken one by one, to rounding.
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

ROUNDED_TO = 16
"""Each owner's tokens are filled up to a multiple of this, at the end of its first window, where nothing looks at them.

Libraries prepare a matrix product once per shape, on a CPU for 4 ms, and matrix units work in such pieces."""


@dataclass(frozen=True)
class Pack:
    """L tokens of R windows, M of them to be predicted."""

    tokens: Tensor
    """``[1, L]``, owner after owner."""
    positions: Tensor
    """``[1, L]``, of each token in its window."""
    sizes: tuple[int, ...]
    """Tokens of each owner; their sum is L."""
    windows: Tensor
    """``[R, T]`` indices of each window's tokens, the shared beginning first. What is too much at the end repeats a
    token of the same window: it is never looked at, and nothing of another owner's is mixed in."""
    restore: Tensor
    """``[L]`` where each token is in ``windows``, flattened; a shared one in the first that has it."""
    predictors: Tensor
    """``[M]`` indices of the tokens after which a target comes, window by window in the order they were given."""
    targets: Tensor
    """``[M]`` token ids."""
    weights: Tensor
    """``[M]``, of each target's loss."""
    target_sizes: tuple[int, ...]
    """Targets of each window; their sum is M."""
    owner_targets: tuple[int, ...]
    """Targets of each owner; their sum is M, too."""


def pack(owners: Sequence[Sequence[Window]], device: torch.device) -> Pack:
    """Lay out the windows of each owner. Every owner has at least one."""
    layout = _Layout()
    for windows in owners:
        layout.add(windows)
    return layout.finish(device)


class _Layout:
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
        shared = common_prefix(windows)
        beginning = self._lay(windows[0].tokens[:shared], 0)
        for window in windows:
            places = [*beginning, *self._lay(window.tokens[shared:], shared)]
            self.windows.append(places)
            targets = window.target_places
            self.predictors += [places[i - 1] for i in targets]
            self.targets += [window.tokens[i] for i in targets]
            self.weights += [window.weights[i] for i in targets]
            self.target_sizes.append(len(targets))
        missing = -(len(self.tokens) - before) % ROUNDED_TO
        self.windows[first] += self._lay(windows[0].tokens[:1] * missing, 0)
        self.sizes.append(len(self.tokens) - before)
        self.owner_targets.append(len(self.targets) - targets_before)

    def _lay(self, tokens: Sequence[int], position: int) -> range:
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        return range(start, len(self.tokens))

    def finish(self, device: torch.device) -> Pack:
        longest = max(map(len, self.windows))
        restore = [0] * len(self.tokens)
        for row, places in reversed(list(enumerate(self.windows))):
            for column, token in enumerate(places):
                restore[token] = row * longest + column

        def ids(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return Pack(
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


def common_prefix(windows: Sequence[Window]) -> int:
    """How many tokens all of ``windows`` begin with; each keeps one of its own. 0 for a single window."""
    if len(windows) < 2:
        return 0
    first, last = min(w.tokens for w in windows), max(w.tokens for w in windows)  # all others lie between these
    most = min(len(window) for window in windows) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def packed_size(windows: Sequence[Window]) -> int:
    """Tokens that ``windows``, of one owner, take when packed."""
    return sum(map(len, windows)) - (len(windows) - 1) * common_prefix(windows)


def divide(
    batches: Sequence[Sequence[Window]], tokens: int, uncut: Sequence[list[Window]] = ()
) -> Iterator[dict[int, list[Window]]]:
    """Cut ``batches``, one of each owner, into parts of at most ``tokens`` packed tokens: owner's number to windows.

    An owner's windows stay together where they fit, so that their beginning is shared. A window longer than that is
    a part by itself. Owners of like lengths come together, which keeps attention's padding small. What is ``uncut`` is
    numbered after the batches, and stays whole and in its order.
    """
    pieces = [(number, piece) for number, batch in enumerate(batches) for piece in _pieces(batch, tokens)]
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


def _pieces(batch: Sequence[Window], tokens: int) -> Iterator[list[Window]]:
    piece: list[Window] = []
    for window in sorted(batch, key=len):
        if piece and packed_size([*piece, window]) > tokens:
            yield piece
            piece = []
        piece.append(window)
    if piece:
        yield piece


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    pack: Pack,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each window of ``pack``, in the form that transformers' models call.

    ``query`` is ``[1, H, L, D]``; ``key`` and ``value``, with G groups of heads, ``[1, G, L, D]``. Returns
    ``[1, L, H, D]``.
    """
    if sliding_window is not None and sliding_window < pack.windows.shape[1]:
        raise InvalidInput(
            f"a window of {pack.windows.shape[1]} tokens is longer than the {sliding_window} that the base model's "
            "attention slides over: lower the recipe's max_seq_length"
        )
    heads = query.shape[1]
    q, k, v = (_apart(x, pack.windows) for x in (query, key, value))
    if query.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()  # in bfloat16, short windows take twice as long there
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    laid = out.to(query.dtype).transpose(1, 2).flatten(0, 1)
    return laid.index_select(0, pack.restore).unsqueeze(0), None


def _apart(x: Tensor, windows: Tensor) -> Tensor:
    """``[1, H, L, D]`` as ``[R, H, T, D]``."""
    tokens = x[0].transpose(0, 1)  # [L, H, D]
    taken = tokens.flatten(1).index_select(0, windows.flatten())
    return taken.view(*windows.shape, *tokens.shape[1:]).transpose(1, 2)


def starts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The half-open spans of consecutive pieces of ``sizes``."""
    return pairwise(chain([0], accumulate(sizes)))
