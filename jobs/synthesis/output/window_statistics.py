"""How the examples of a consolidation fit into training windows, in tokens of the base model.

``publish.py`` adds these numbers to the report.
"""

from collections.abc import Sequence
from math import ceil

from pydantic import BaseModel, ConfigDict, model_validator

from looper.platform.domain.renamed import rename_old_fields


class PackingStatistics(BaseModel):
    """Statistics of training examples in tokens. The field names are those of ``report.json``."""

    model_config = ConfigDict(frozen=True)

    examples: int
    """Number of examples that have a window."""
    max_seq_length: int
    """Length of a window, in tokens."""
    p50: int
    """Median length of an example: the tokens of all its windows."""
    p95: int
    """95th percentile of the length."""
    longest: int
    """Maximum length."""
    divided: int
    """Number of examples that take more than one window."""
    truncated: int
    """Number of turns that do not fit into a window with their prompt, and lost a part of it or of themselves."""
    left_out: dict[str, int] = {}
    """Number of turns that the base model cannot be taught, by reason."""
    windows: int
    """Number of windows."""
    loss: float
    """Share of the windows' tokens that are learned."""
    fill: float
    """Average share of a window that is filled."""

    _known_names = model_validator(mode="before")(rename_old_fields)


def measure_packing(content: bytes, max_seq_length: int) -> PackingStatistics | None:
    """Measure how examples fit into windows.

    Args:
        content: File of windows of the training examples.
        max_seq_length: Length of a window, in tokens.

    Returns:
        The statistics. None if there are no windows; training reports that error.
    """
    from looper.jobs.consolidation.data.window_table import count_windows  # imports torch

    counts = count_windows(content)
    if not counts.windows:
        return None
    lengths = sorted(counts.tokens_by_example)
    return PackingStatistics(
        examples=len(lengths),
        max_seq_length=max_seq_length,
        p50=_quantile(lengths, 0.5),
        p95=_quantile(lengths, 0.95),
        longest=lengths[-1],
        divided=counts.divided,
        truncated=counts.cropped,
        left_out=counts.left_out,
        windows=counts.windows,
        loss=round(counts.targets / sum(lengths), 4),
        fill=round(sum(lengths) / (counts.windows * max_seq_length), 4),
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest of ``ordered`` that is at least as large as ``share`` of them."""
    return ordered[ceil(share * len(ordered)) - 1]
