"""O-LoRA: a new block reads from directions that no old block reads from. Used through ``registry.py``."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG


@dataclass(config=STRATEGY_CONFIG)
class OLora(Progressive):
    """A growing adapter with the penalty weight * sum |A_past A^T| over all entries and layers.

    Wang et al., 2023, arXiv 2310.14152; with absolute values as in its code. Simplified: the second penalty of that
    code, on the size of the new block, is left to the recipe's weight decay. Where the trainer truncated the old blocks
    into one, its A spans what remained of them.

    Memory: nothing but the adapter. A step costs one product of the A's more.
    """

    weight: float = Field(default=0.5, ge=0, le=1e12, description="lambda")

    @override
    def penalty(self) -> Tensor | None:
        start = self._session.start
        if start is None:
            return None
        overlaps = [(start[layer].a @ new.a.T).abs().sum() for layer, new in self._session.lora.items()]
        return self.weight * torch.stack(overlaps).sum()
