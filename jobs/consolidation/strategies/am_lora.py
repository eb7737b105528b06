"""AM-LoRA, reduced to what one plain adapter can express: a gate per old block. Used through ``registry.py``."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, StrategyContext, StrategyState


@dataclass(config=STRATEGY_CONFIG)
class AmLora(Progressive):
    """dW = sum_i g_i b_i a_i + b a in every layer, with a gate g_i for each old block and weight * sum_i |g_i| added.

    Liu et al., 2024, arXiv 2409.19611. There g is the attention of the input to what each block makes of it, normalized
    over the blocks. That is lost here, and with it the choice of a block by the task at hand: one plain adapter acts
    alike on every input. What is left is a number for each layer and block, 1 at first so that a session begins as the
    version before; it is learned with the new block, pushed towards few blocks by the paper's l1 norm (here averaged
    over the layers) and folded into b at the end. If the trainer truncated the blocks into one, that one has the gate.

    g = 1 + ``rate`` * theta, theta being what is trained: AdamW moves a parameter by about the learning rate in a step,
    which is too little to close a gate within a session.

    Memory: the rank of each block. A step costs one pass over the old b's more.

    In the gym's five sessions it protected nothing alone (docs/strategies.md).
    """

    weight: float = Field(
        default=0.01, ge=0, le=1e12, description="of the l1 norm of the gates, in nats for each open block"
    )
    rate: float = Field(default=20.0, gt=0, le=1e6, description="how far a gate moves for each unit of its parameter")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        super().begin(session, past)
        self._ranks: list[int] = []
        if session.start is None:
            return
        some = next(iter(session.start.values()))
        self._ranks = past["ranks"].tolist() if past else []
        if sum(self._ranks) != some.rank:
            self._ranks = [some.rank]
        blocks = torch.arange(len(self._ranks)).repeat_interleave(torch.tensor(self._ranks))
        self._block_of = blocks.to(some.a.device)
        self._theta = nn.Parameter(torch.zeros(len(session.start), len(self._ranks), device=some.a.device))

    def _gates(self) -> Tensor:
        """Return the gates, ``[layers, blocks]``."""
        return 1 + self.rate * self._theta

    @override
    def parameters(self) -> list[nn.Parameter]:
        return [self._theta] if self._ranks else []

    @override
    def frozen_lora(self) -> Lora | None:
        start = self._session.start
        if start is None:
            return None
        gates = self._gates()[:, self._block_of]
        return {
            layer: Factors(old.a, old.b * gate, old.scale)
            for (layer, old), gate in zip(start.items(), gates, strict=True)
        }

    @override
    def penalty(self) -> Tensor | None:
        return self.weight * self._gates().abs().sum(1).mean() if self._ranks else None

    @override
    def finish(self, trained: Lora) -> Lora:
        with torch.no_grad():
            beside = self.frozen_lora()
        return trained if beside is None else stack_adapters(beside, trained)

    @override
    def remember(self, published: Lora) -> StrategyState:
        return {"ranks": torch.tensor([*self._ranks, next(iter(self._session.lora.values())).rank])}
