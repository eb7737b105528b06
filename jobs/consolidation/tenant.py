"""One member of a trainer: its adapter, and an optimiser, clipping, schedule, strategy and data order of its own."""

import math
from collections.abc import Sequence

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.lora import Lora, stack
from looper.jobs.consolidation.plan import batch_at, learning_rate, total_steps
from looper.jobs.consolidation.strategies.strategy import Session, State, Strategy
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

# A DeepSpeed op for shared-memory collectives on CPU that is compiled at first use, for minutes, with a compiler that
# may not be there. Gloo does without. The table is internal: DeepSpeed's version is pinned.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

LORA_PLUS_RATIO = 16.0
"""Learning rate of b over that of a: Hayou et al., 2024 (arXiv 2402.12354)."""


class Tenant:
    """Trains one adapter on its windows, a step at a time. Nothing of it depends on who trains beside it."""

    def __init__(self, recipe: Recipe, session: Session, strategy: Strategy, past: State) -> None:
        self.recipe = recipe
        self.strategy = strategy
        self.step: int = 0
        self.loss: float | None = None
        """Mean cross-entropy of the latest step, in nats per target token."""
        self._session = session
        strategy.begin(session, past)
        self._windows = [*session.windows, *strategy.windows()]
        self._lengths = [len(window) for window in self._windows]
        self.steps = total_steps(len(self._windows), recipe)
        b_rate = LORA_PLUS_RATIO if recipe.method == "lora+" else 1.0
        self._groups: list[tuple[list[nn.Parameter], float]] = [
            ([_parameter(factors.a) for factors in session.lora.values()], 1.0),
            ([_parameter(factors.b) for factors in session.lora.values()], b_rate),
            (strategy.parameters(), 1.0),
        ]
        self.trained = [parameter for parameters, _ in self._groups for parameter in parameters]
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters, _ in self._groups if parameters],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # The engine's module is a list of this tenant's parameters and nothing else, so that nothing that is done to
        # an engine, clipping and reduction among it, reaches another tenant.
        self._engine, *_ = deepspeed.initialize(
            model=nn.ParameterList(self.trained),
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

    @property
    def lora(self) -> Lora:
        """What acts in the next step, differentiable in ``trained``."""
        constant = self.strategy.constant()
        return self._session.lora if constant is None else stack(constant, self._session.lora)

    def batch(self) -> list[Window]:
        """The windows of the next step."""
        return [self._windows[i] for i in batch_at(self.step, self._lengths, self.recipe)]

    def advance(self, loss: float, gradients: Sequence[Tensor]) -> None:
        """Take the optimiser step for which ``batch`` had this mean loss and, on this worker, these gradients.

        ``gradients`` are those of ``trained``; the workers' are added up here. Raises InvalidInput when the loss is no
        number; the adapter is unchanged then.
        """
        if not math.isfinite(loss):
            raise InvalidInput(
                f"the loss is {loss} at step {self.step + 1} of {self.steps}: lower the recipe's learning_rate "
                f"({self.recipe.learning_rate}) or look at the training examples"
            )
        rate = learning_rate(self.step, self.steps, self.recipe)
        for group, (_, factor) in zip(self._optimizer.param_groups, self._groups, strict=False):
            group["lr"] = rate * factor
        # A function with just these gradients hands them to DeepSpeed, which averages over the workers; they are to be
        # added. The penalty is the same in each worker.
        handed = torch.stack([(p * g).sum() for p, g in zip(self.trained, gradients, strict=True)]).sum()
        penalty = self.strategy.penalty()
        self._engine.backward(handed * dist.get_world_size() + (0.0 if penalty is None else penalty))
        self._engine.step()
        self.step += 1
        self.loss = loss
        self.strategy.stepped(loss)

    def finish(self) -> Lora:
        """The adapter that the training came to."""
        with torch.no_grad():
            finished = self.strategy.finish({layer: each.copy() for layer, each in self._session.lora.items()})
            return {layer: each.copy() for layer, each in finished.items()}

    def state_bytes(self) -> bytes:
        """Weights, AdamW's moments and the strategy's state as safetensors: with the step, all that going on needs."""
        tensors = {f"strategy/{key}": tensor for key, tensor in self.strategy.state().items()}
        for i, parameter in enumerate(self.trained):
            moments = self._optimizer.state[parameter]
            tensors[f"weight/{i}"] = parameter.detach()
            tensors[f"exp_avg/{i}"] = moments["exp_avg"]
            tensors[f"exp_avg_sq/{i}"] = moments["exp_avg_sq"]
        return save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})

    def resume(self, step: int, loss: float, state: bytes) -> None:
        """Go on after ``step``, from what ``state_bytes`` returned then."""
        tensors = load(state)
        with torch.no_grad():
            for i, parameter in enumerate(self.trained):
                parameter.copy_(tensors[f"weight/{i}"])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    "exp_avg": tensors[f"exp_avg/{i}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{i}"].to(parameter.device),
                }
        prefix = "strategy/"
        self.strategy.resume({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})
        self.step, self.loss = step, loss

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.destroy()


def _parameter(tensor: Tensor) -> nn.Parameter:
    assert isinstance(tensor, nn.Parameter)
    return tensor
