"""One member of a trainer: its adapter, and an optimiser, clipping, schedule, strategy and data order of its own."""

import math
from collections.abc import Callable, Sequence

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Lora, served, stack
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import Acting
from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.data.preference import Contrast
from looper.jobs.consolidation.strategies.strategy import State, Strategy, StrategyContext
from looper.jobs.consolidation.strategies.tensors import under, within
from looper.jobs.consolidation.training.schedule import batch_at, learning_rate, pairs_at, total_steps
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput

# A DeepSpeed op for shared-memory collectives on CPU that is compiled at first use, for minutes, with a compiler that
# may not be there. Gloo does without. The table is internal: DeepSpeed's version is pinned.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class TrainingMember:
    """Trains one adapter on its windows, a step at a time. Nothing of it depends on who trains beside it."""

    def __init__(
        self,
        recipe: Recipe,
        session: StrategyContext,
        strategy: Strategy,
        past: State,
        parametrised: Callable[[int], Parametrization],
        pairs: Sequence[Contrast],
    ) -> None:
        """``parametrised`` makes the adapter, given the number of steps that it will be trained for."""
        self.recipe = recipe
        self.strategy = strategy
        self.step: int = 0
        self.loss: float | None = None
        """Mean cross-entropy of the latest step, in nats per target token."""
        self._session = session
        self._pairs = pairs
        strategy.begin(session, past)
        self._windows = [*session.windows, *strategy.windows()]
        self.steps = total_steps(len(self._windows), recipe)
        self._parametrisation = parametrised(self.steps)
        self._groups = [*self._parametrisation.groups, (strategy.parameters(), 1.0)]
        self.trained = [parameter for parameters, _ in self._groups for parameter in parameters]
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters, _ in self._groups if parameters],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._optimizer.register_step_post_hook(lambda *_: self._parametrisation.stepped(self.step + 1))
        # The engine's module is a list of this tenant's parameters and nothing else, so that nothing that is done to
        # an engine, clipping and reduction among it, reaches another tenant.
        self._engine, *_ = deepspeed.initialize(
            model=nn.ParameterList(self.trained),
            optimizer=self._optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # for its throughput log only: batches are cut here
                "gradient_clipping": recipe.max_grad_norm,
                "zero_optimization": {"stage": 0},
                "zero_allow_untested_optimizer": True,
            },
        )

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    @property
    def acting(self) -> Acting:
        """What acts in the next step, differentiable in ``trained``."""
        constant = self.strategy.constant()
        return self._parametrisation.acting() if constant is None else stack(constant, self._session.lora)

    def batch(self) -> list[Window]:
        """The windows of the next step."""
        return [self._windows[i] for i in batch_at(self.step, len(self._windows), self.recipe)]

    def pairs(self) -> list[Contrast]:
        """Those of the next step."""
        indices = pairs_at(self.step, len(self._windows), len(self._pairs), self.recipe)
        return [self._pairs[i] for i in indices]

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
        penalties = (self.strategy.penalty(), self._parametrisation.penalty())
        self._engine.backward(handed * dist.get_world_size() + sum(each for each in penalties if each is not None))
        self._engine.step()
        self.step += 1
        self.loss = loss
        self.strategy.stepped(loss)

    def finish(self, max_rank: int) -> tuple[Lora, float]:
        """The adapter that the training came to, as a server with ``max_rank`` can take it.

        And how far that is from what was trained, ||dW - dW'|| / ||dW|| over all layers.
        """
        with torch.no_grad():
            plain, converted = self._parametrisation.plain()
            finished = self.strategy.finish(plain)
            lora, cut = served(finished, max_rank)
            # Each keeps the largest part of what it is given, so what it loses stands at right angles to what it keeps.
            error = math.hypot(converted, cut * math.sqrt(1 - converted**2))
            return {layer: each.copy() for layer, each in lora.items()}, error

    def state_bytes(self) -> bytes:
        """Weights, AdamW's moments and the strategy's state as safetensors: with the step, all that going on needs."""
        tensors = {
            **under("strategy", self.strategy.state()),
            **under("parametrisation", self._parametrisation.state()),
        }
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
        self.strategy.resume(within("strategy", tensors))
        self._parametrisation.resume(within("parametrisation", tensors))
        self.step, self.loss = step, loss

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.destroy()
