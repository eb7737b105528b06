"""How the examples of a consolidation fit into training windows, in tokens of the base model.

``publish.py`` adds these numbers to the report. Only some examples are measured, so that a consolidation with many does
not wait for it.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from looper.jobs.synthesis.output.example_table import read_example_sample
from looper.platform.domain.example import Example
from looper.platform.domain.renamed import rename_old_fields

MAX_EXAMPLES = 64
"""Maximum number of examples that are measured."""

MAX_TURNS = 200
"""Examples with more turns are not measured. The template is rendered once for each turn, with all turns before it."""

_UNBOUNDED = 2**31
"""A window length that no example reaches, in tokens."""

_TOKENIZER_LOCK = Lock()
"""Held while a thread measures: a tokenizer serves one thread, and two threads must not import ``transformers``."""


class PackingStatistics(BaseModel):
    """Statistics of training examples in tokens. The field names are those of ``report.json``."""

    model_config = ConfigDict(frozen=True)

    examples: int
    """Number of examples that were measured."""
    max_seq_length: int
    """Length of a window, in tokens."""
    p50: int
    """Median length of an example in tokens, before it is divided into windows."""
    p95: int
    """95th percentile of the length."""
    longest: int
    """Maximum length."""
    divided: int
    """Number of examples that take more than one window."""
    truncated: int
    """Number of examples of which some target tokens are in no window. Other examples may lose context only."""
    windows: int
    """Number of windows of all measured examples."""
    loss: float
    """Share of the windows' tokens that are learned."""
    fill: float
    """Average share of a window that is filled."""

    _known_names = model_validator(mode="before")(rename_old_fields)


def measure_packing(content: bytes, model_dir: Path, max_seq_length: int) -> PackingStatistics | None:
    """Measure how examples fit into windows.

    Args:
        content: Parquet file of examples.
        model_dir: Folder of the base model.
        max_seq_length: Length of a window, in tokens.

    Returns:
        The statistics. None if there is nothing to measure, or if the base's template cannot render the examples;
        training reports that error.
    """
    sample = read_example_sample(content, MAX_EXAMPLES)
    examples = [example for example in sample if len(example.turns) <= MAX_TURNS]
    if not examples or not (model_dir / "tokenizer_config.json").is_file():
        return None
    with _TOKENIZER_LOCK:
        return _measure(examples, model_dir, max_seq_length)


def _measure(examples: Sequence[Example], model_dir: Path, max_seq_length: int) -> PackingStatistics | None:
    from looper.jobs.consolidation.data.encode import (  # takes seconds, which only jobs with a base need
        ExampleEncoder,
        encode_example,
    )

    tokenizer = _load_tokenizer(model_dir)
    encoders = [
        ExampleEncoder(partial(encode_example, tokenizer=tokenizer, max_seq_length=length))
        for length in (_UNBOUNDED, max_seq_length)
    ]
    encoded = [[encoder.encode(example) for encoder in encoders] for example in examples]
    whole = [window for windows, _ in encoded for window in windows]
    divided = [windows for _, windows in encoded if windows]
    if not whole:
        return None
    lengths = sorted(map(len, whole))
    windows = [window for example_windows in divided for window in example_windows]
    num_tokens = sum(map(len, windows))
    return PackingStatistics(
        examples=len(whole),
        max_seq_length=max_seq_length,
        p50=_quantile(lengths, 0.5),
        p95=_quantile(lengths, 0.95),
        longest=lengths[-1],
        divided=sum(len(example_windows) > 1 for example_windows in divided),
        truncated=sum(
            sum(window.targets for window in example_windows) < undivided.targets
            for undivided, example_windows in zip(whole, divided, strict=True)
        ),
        windows=len(windows),
        loss=round(sum(window.targets for window in windows) / num_tokens, 4),
        fill=round(num_tokens / (len(windows) * max_seq_length), 4),
    )


@lru_cache(maxsize=1)  # one process publishes many consolidations of one base
def _load_tokenizer(model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest of ``ordered`` that is at least as large as ``share`` of them."""
    return ordered[ceil(share * len(ordered)) - 1]
