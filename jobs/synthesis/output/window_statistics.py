"""How a job's examples fit into the windows that are trained on, by the base model's own tokens.

Measured on some of the examples, so that a job of many does not wait for it.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import BaseModel, ConfigDict

from looper.jobs.synthesis.output.example_table import read_some_examples
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example

MOST = 64
"""Examples that are measured, by their ids, which are digests."""
MOST_TURNS = 200
"""Longer ones are not measured: a template is rendered once for each turn, with all turns before it."""

_ALONE = Lock()
"""Of threads that write: a tokenizer is used by one at a time, and ``transformers`` is no module for two to import."""


class Packing(BaseModel):
    """Of training examples, in tokens."""

    model_config = ConfigDict(frozen=True)

    examples: int
    """Measured."""
    max_context: int
    """Tokens of a window."""
    p50: int
    p95: int
    longest: int
    """Tokens of an example, before it is divided into windows."""
    divided: int
    """Examples that take more than one window."""
    truncated: int
    """Examples of which some of the tokens to learn are in no window. Context may be cropped in others."""
    windows: int
    loss: float
    """Share of the windows' tokens that are learned."""
    fill: float
    """Share of ``max_context`` that a window has tokens for."""


def packing(content: bytes, model_dir: Path, max_context: int) -> Packing | None:
    """Of a Parquet file of examples. None if there is nothing to measure, or the base cannot render it: that is for
    training to say.
    """
    some = [example for example in read_some_examples(content, MOST) if len(example.turns) <= MOST_TURNS]
    if not some or not (model_dir / "tokenizer_config.json").is_file():
        return None
    with _ALONE:
        return _measured(some, model_dir, max_context)


def _measured(some: Sequence[Example], model_dir: Path, max_context: int) -> Packing | None:
    from looper.jobs.consolidation.data.encode import Window, encode  # seconds, which a job without a base need not pay

    tokenizer = _tokenizer(model_dir)
    whole: list[Window] = []
    divided: list[list[Window]] = []
    try:
        for example in some:
            whole += encode(example, tokenizer, _UNBOUNDED)
            divided.append(encode(example, tokenizer, max_context))
    except InvalidInput:
        return None
    sizes = sorted(map(len, whole))
    windows = [window for each in divided for window in each]
    tokens = sum(map(len, windows))
    return Packing(
        examples=len(some),
        max_context=max_context,
        p50=_quantile(sizes, 0.5),
        p95=_quantile(sizes, 0.95),
        longest=sizes[-1],
        divided=sum(len(each) > 1 for each in divided),
        truncated=sum(
            sum(window.targets for window in each) < one.targets for one, each in zip(whole, divided, strict=True)
        ),
        windows=len(windows),
        loss=round(sum(window.targets for window in windows) / tokens, 4),
        fill=round(tokens / (len(windows) * max_context), 4),
    )


_UNBOUNDED = 2**31


@lru_cache(maxsize=1)  # of all consolidations that one process publishes
def _tokenizer(model_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The least of ``ordered`` that is not below so many of them."""
    return ordered[ceil(share * len(ordered)) - 1]
