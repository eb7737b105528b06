"""One member of a cohort: its adapter, and an optimiser, clipping, schedule and data order that are its own."""

import math
from collections.abc import Sequence

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.plan import batch_at, learning_rate, total_steps
from looper.jobs.consolidation.shared_base import Adapter
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

# A DeepSpeed op for shared-memory collectives on CPU that is compiled at first use, for minutes, with a compiler that
# may not be there. Gloo does without. The table is internal: DeepSpeed's version is pinned.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Tenant:
    """Trains one adapter on its windows, a step at a time. Nothing of it depends on who trains beside it."""

    def __init__(self, adapter: Adapter, recipe: Recipe, windows: Sequence[Window]) -> None:
        self.recipe = recipe
        self.step = 0
        self.steps = total_steps(len(windows), recipe)
        self.loss: float | None = None
        """Mean cross-entropy of the latest step, in nats per target token."""
        self._adapter = adapter
        self._windows = windows
        self._lengths = [len(window) for window in windows]
        self._optimizer = torch.optim.AdamW(
            list(adapter.named.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._engine, *_ = deepspeed.initialize(
            model=adapter,
            optimizer=self._optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # for its throughput log only: batches are cut here
                "gradient_clipping": recipe.clip,
                "zero_optimization": {"stage": 0},
                "zero_allow_untested_optimizer": True,
            },
        )

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def advance(self) -> None:
        """One optimiser step. Raises InvalidInput when the loss is no number; the adapter is unchanged then."""
        windows = [self._windows[i] for i in batch_at(self.step, self._lengths, self.recipe)]
        total = sum(sum(window.weights) for window in windows)
        world = dist.get_world_size()
        mine = windows[dist.get_rank() :: world]
        tokens, weights = collate(mine or windows[:1], next(self._adapter.parameters()).device)
        targets = weights > 0
        if not mine:  # more workers than examples: this one only takes part in the reduction
            weights = torch.zeros_like(weights)
        losses = cross_entropy(self._engine(tokens, targets), tokens[targets], reduction="none")
        share = (losses * weights[targets]).sum() / total
        loss = share.detach().clone()
        dist.all_reduce(loss)
        if not math.isfinite(loss.item()):
            raise InvalidInput(
                f"the loss is {loss.item()} at step {self.step + 1} of {self.steps}: lower the recipe's learning_rate "
                f"({self.recipe.learning_rate}) or look at the training examples"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.recipe)
        self._engine.backward(share * world)  # DeepSpeed averages over the workers; the shares are to be added
        self._engine.step()
        self.step += 1
        self.loss = loss.item()

    def state_bytes(self) -> bytes:
        """Weights and AdamW's moments as safetensors: with the step, all that going on exactly needs."""
        tensors: dict[str, Tensor] = {}
        for key, parameter in self._adapter.named.items():
            moments = self._optimizer.state[parameter]
            tensors[f"weight/{key}"] = parameter.detach().cpu().contiguous()
            tensors[f"exp_avg/{key}"] = moments["exp_avg"].cpu().contiguous()
            tensors[f"exp_avg_sq/{key}"] = moments["exp_avg_sq"].cpu().contiguous()
        return save(tensors)

    def resume(self, step: int, loss: float, state: bytes) -> None:
        """Go on after ``step``, from what ``state_bytes`` returned then."""
        tensors = load(state)
        with torch.no_grad():
            for key, parameter in self._adapter.named.items():
                parameter.copy_(tensors[f"weight/{key}"])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    "exp_avg": tensors[f"exp_avg/{key}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{key}"].to(parameter.device),
                }
        self.step, self.loss = step, loss

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.destroy()


def collate(windows: Sequence[Window], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and weights ``[B, T]`` of ``windows``, padded on the right with token 0 at weight 0."""
    tokens = pad_sequence([torch.tensor(window.tokens) for window in windows], batch_first=True)
    weights = pad_sequence([torch.tensor(window.weights) for window in windows], batch_first=True)
    return tokens.to(device), weights.to(device)
