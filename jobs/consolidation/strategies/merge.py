"""Model merging: publish a mixture of the previous version and the trained one. Used through ``registry.py``."""

from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from looper.jobs.consolidation.adapters.lora import Factors, Lora, truncate_rank
from looper.jobs.consolidation.strategies.strategy import STRATEGY_CONFIG, Strategy, StrategyContext, StrategyState

MergeKind = Literal[
    "linear",
    "cat",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]


@dataclass(config=STRATEGY_CONFIG)
class Merge(Strategy):
    """The weighted combination of the start and of what was trained, by PEFT's ``add_weighted_adapter``.

    ``cat`` and ``svd`` average the updates, old * dW_start + new * dW, at the larger of the two ranks; PEFT's ``cat``
    is exact at the sum of the ranks and truncated here, which gives the same as ``svd`` at a fraction of its cost.
    ``linear`` averages the factors. The others thin out what they merge to ``density``: by size, with signs that agree
    (TIES, Yadav et al., 2023, arXiv 2306.01708), at random, rescaled (DARE, Yu et al., 2024, arXiv 2311.03099), or by
    size alone; the factors, or with ``_svd`` the updates. Averaging the versions before and after is Wortsman et al.,
    2022, arXiv 2109.01903.

    Memory: nothing. Costs nothing while training, and little at the end, but for ``svd`` and ``_svd``, which decompose
    ``[out, in]`` matrices.
    """

    kind: MergeKind = Field(default="cat", description="PEFT's combination_type")
    old: float = Field(default=0.5, ge=-10, le=10, description="weight of the version before")
    new: float = Field(default=0.5, ge=-10, le=10, description="weight of what was trained")
    density: float = Field(default=0.5, gt=0, lt=1, description="share of the entries kept by ties, dare and pruning")

    @override
    def begin(self, session: StrategyContext, past: StrategyState) -> None:
        self._session = session

    @override
    def finish(self, trained: Lora) -> Lora:
        start = self._session.start
        if start is None:
            return trained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._session.rng("merge").getrandbits(63))  # dare drops at random, on the CPU
            merged = {layer: self._merged(start[layer], factors) for layer, factors in trained.items()}
        return truncate_rank(merged, max(_rank(start), _rank(trained)))[0] if self.kind == "cat" else merged

    def _merged(self, start: Factors, trained: Factors) -> Factors:
        """Merge one layer through a model of one linear layer, so that full matrices exist for one layer at a time."""
        rank = max(start.rank, trained.rank)  # all but cat and svd want one rank
        (_, columns), (rows, _) = trained.a.shape, trained.b.shape
        skeleton = nn.Sequential(nn.Linear(columns, rows, bias=False))
        model = get_peft_model(skeleton, _config(start, rank), adapter_name="old")
        model.add_adapter("new", _config(trained, rank))
        _put(model, "old", start, rank)
        _put(model, "new", trained, rank)
        model.add_weighted_adapter(
            ["old", "new"],
            [self.old, self.new],
            "merged",
            combination_type=self.kind,
            density=self.density,
            svd_full_matrices=False,
        )
        a, b = _factors(model, "merged")
        return Factors(a.to(trained.a), b.to(trained.b))


def _rank(lora: Lora) -> int:
    return next(iter(lora.values())).rank


def _config(factors: Factors, rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=factors.scale * rank, target_modules=["0"])


def _factors(model: PeftModel, adapter: str) -> tuple[Tensor, Tensor]:
    layer = model.get_submodule("base_model.model.0")
    return layer.lora_A[adapter].weight.data, layer.lora_B[adapter].weight.data


def _put(model: PeftModel, adapter: str, factors: Factors, rank: int) -> None:
    a, b = _factors(model, adapter)
    a.copy_(pad(factors.a.detach(), (0, 0, 0, rank - factors.rank)))
    b.copy_(pad(factors.b.detach(), (0, rank - factors.rank)))
