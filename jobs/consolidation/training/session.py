"""A training session: one adapter with its own optimizer, gradient clipping, schedule, strategy and data order.

``session_setup.start_session`` makes it. A trainer steps many of them together through ``FusedStep``.
"""

import math
from collections.abc import Callable, Sequence
from random import Random

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from looper.jobs.consolidation.adapters.lora import Lora, fit_to_max_rank, stack_adapters
from looper.jobs.consolidation.adapters.parametrization import Parametrization
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter
from looper.jobs.consolidation.data.preference import PairWindows
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.deepspeed_engine import initialize_engine
from looper.jobs.consolidation.strategies.strategy import Strategy, StrategyContext, StrategyState
from looper.jobs.consolidation.strategies.tensors import add_prefix, select_prefix
from looper.jobs.consolidation.training.collective import broadcast_from_rank0
from looper.jobs.consolidation.training.schedule import (
    batch_with_once_at,
    learning_rate,
    once_per_epoch,
    pairs_at,
    spread_evenly,
    total_steps,
)
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe

MAX_SKIPPED_IN_A_ROW = 3
"""A session fails after so many steps in a row whose loss or gradient is not finite: its adapter is broken."""


class TrainingSession:
    """Trains one adapter on its windows, step by step. The result does not depend on other sessions in the trainer.

    Attributes:
        recipe: The recipe.
        strategy: The strategy against forgetting.
        step: Optimizer steps taken.
        steps: Optimizer steps of the whole session.
        skipped_steps: Those of them that changed nothing, because the loss or a gradient was not finite.
        loss: Mean cross-entropy of the latest step, in nats per target token; None before the first step.
        trainable: All parameters that are trained, in a fixed order.
    """

    def __init__(
        self,
        recipe: Recipe,
        context: StrategyContext,
        strategy: Strategy,
        past: StrategyState,
        parametrize: Callable[[int], Parametrization],
        pairs: Sequence[PairWindows],
    ) -> None:
        """Start the strategy and the DeepSpeed engine.

        Args:
            recipe: The recipe, with a learning rate.
            context: What the strategy may ask of the base model; it also has the adapter and the new windows.
            strategy: The strategy against forgetting.
            past: Strategy state of the version that the session starts from.
            parametrize: Makes the trainable form of the adapter, given the number of steps.
            pairs: Preference pairs.
        """
        self.recipe = recipe
        self.strategy = strategy
        self.step: int = 0
        self.skipped_steps: int = 0
        self._skipped_in_a_row = 0
        self.loss: float | None = None
        self._context = context
        self._pairs = pairs
        strategy.begin(context, past)
        # What a strategy replays may depend on losses, which two ranks may round differently.
        old = broadcast_from_rank0(strategy.windows())
        rendered = Random(f"{recipe.seed}:once").sample(context.windows_once, len(context.windows_once))
        once = spread_evenly(rendered, old)
        self._windows = [*context.repeated_windows, *once]
        self._once_count = len(once)
        self._windows_per_epoch = len(context.repeated_windows) + once_per_epoch(len(once), context.epochs)
        self.steps = total_steps(self._windows_per_epoch, recipe)
        self._parametrization = parametrize(self.steps)
        self._groups = [*self._parametrization.groups, (strategy.parameters(), 1.0)]
        self.trainable = [parameter for parameters, _ in self._groups for parameter in parameters]
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters, _ in self._groups if parameters],
            lr=learning_rate(0, self.steps, recipe),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._optimizer.register_step_post_hook(lambda *_: self._parametrization.after_step(self.step + 1))
        # The engine's module is a list of this session's parameters and nothing else. So nothing that DeepSpeed does to
        # the parameters of an engine, such as clipping and reduction, reaches another session.
        self._engine = initialize_engine(
            nn.ParameterList(self.trainable),
            {
                "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's throughput log: FusedStep makes the batches
                "gradient_clipping": recipe.max_grad_norm,
                "zero_optimization": {"stage": 0},
                "zero_allow_untested_optimizer": True,
            },
            self._optimizer,
        )

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.steps

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps of the session, without those of preference pairs."""
        steps_per_epoch = math.ceil(self._windows_per_epoch / self.recipe.batch_size)
        repeated = sum(map(len, self._context.repeated_windows))
        once = sum(map(len, self._windows)) - repeated
        return math.ceil((repeated + once / self._context.epochs) * self.steps / steps_per_epoch)

    @property
    def active_adapter(self) -> ActiveAdapter:
        """The adapter to apply in the next step, differentiable in ``trainable``."""
        constant = self.strategy.frozen_lora()
        return (
            self._parametrization.active_adapter() if constant is None else stack_adapters(constant, self._context.lora)
        )

    def next_batch(self) -> list[Window]:
        """Return the windows of the next step."""
        repeated = len(self._windows) - self._once_count
        indices = batch_with_once_at(self.step, repeated, self._once_count, self._context.epochs, self.recipe)
        return [self._windows[i] for i in indices]

    def next_pairs(self) -> list[PairWindows]:
        """Return the preference pairs of the next step, which may be none."""
        indices = pairs_at(self.step, self._windows_per_epoch, len(self._pairs), self.recipe)
        return [self._pairs[i] for i in indices]

    def take_step(self, loss: float, gradients: Sequence[Tensor]) -> None:
        """Take the optimizer step for ``next_batch`` and ``next_pairs``.

        Args:
            loss: Mean loss of the batch over all workers, in nats per target token. If it is not finite, the step is
                skipped: one bad example costs its batch, and not the job.
            gradients: This worker's gradients of ``trainable``. They are summed over the workers here.

        Raises:
            InvalidInput: If the loss is not finite for ``MAX_SKIPPED_IN_A_ROW`` steps in a row, or for all steps of a
                session. The adapter is unchanged.
        """
        if not math.isfinite(loss):
            self._skip_step(loss)
            return
        self._skipped_in_a_row = 0
        rate = learning_rate(self.step, self.steps, self.recipe)
        for group, (_, factor) in zip(self._optimizer.param_groups, self._groups, strict=False):
            group["lr"] = rate * factor
        # A function with exactly these gradients passes them to DeepSpeed. DeepSpeed averages over the workers, but the
        # gradients must be summed. The penalty is the same on each worker, so for the penalty the average is right.
        surrogate = torch.stack([(p * g).sum() for p, g in zip(self.trainable, gradients, strict=True)]).sum()
        penalties = (self.strategy.penalty(), self._parametrization.penalty())
        total_penalty = sum(penalty for penalty in penalties if penalty is not None)
        self._engine.backward(surrogate * dist.get_world_size() + total_penalty)
        self._engine.step()
        self.step += 1
        self.loss = loss
        self.strategy.after_step(loss)

    def _skip_step(self, loss: float) -> None:
        self.step += 1
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == MAX_SKIPPED_IN_A_ROW or self.skipped_steps == self.steps:
            raise InvalidInput(
                f"the loss is {loss} at step {self.step} of {self.steps}, {self._skipped_in_a_row} times in a row: "
                f"lower the recipe's learning_rate ({self.recipe.learning_rate}) or look at the training examples"
            )

    def export_adapter(self, max_rank: int) -> tuple[Lora, float]:
        """Convert the trained adapter to plain LoRA that a server accepts.

        Args:
            max_rank: Largest rank that the server accepts.

        Returns:
            The adapter, and the conversion error ||dW - dW'|| / ||dW|| over all layers.
        """
        with torch.no_grad():
            plain, conversion_error = self._parametrization.to_plain_lora()
            finished = self.strategy.finish(plain)
            lora, truncation_error = fit_to_max_rank(finished, max_rank)
            # Each conversion keeps the best low-rank part of its input. What it loses is orthogonal to what it keeps.
            error = math.hypot(conversion_error, truncation_error * math.sqrt(1 - conversion_error**2))
            return {layer: factors.copy() for layer, factors in lora.items()}, error

    def serialize_state(self) -> bytes:
        """Return weights, AdamW's moments and the strategy's state as safetensors.

        Returns:
            All that ``resume`` needs besides step and loss.
        """
        tensors = {
            **add_prefix("strategy", self.strategy.state()),
            **add_prefix(
                "parametrisation", self._parametrization.state()
            ),  # stored name: checkpoints must stay readable
        }
        tensors["skipped"] = torch.tensor([self.skipped_steps, self._skipped_in_a_row])
        for i, parameter in enumerate(self.trainable):
            moments = self._optimizer.state[parameter]
            tensors[f"weight/{i}"] = parameter.detach()
            tensors[f"exp_avg/{i}"] = moments["exp_avg"]
            tensors[f"exp_avg_sq/{i}"] = moments["exp_avg_sq"]
        return save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})

    def resume(self, step: int, loss: float, state: bytes) -> None:
        """Continue from a checkpoint.

        Args:
            step: Optimizer steps taken when the checkpoint was written.
            loss: Loss of the latest of them.
            state: What ``serialize_state`` returned then.
        """
        tensors = load(state)
        if "skipped" in tensors:  # checkpoints of earlier versions have none
            self.skipped_steps, self._skipped_in_a_row = tensors["skipped"].tolist()
        with torch.no_grad():
            for i, parameter in enumerate(self.trainable):
                parameter.copy_(tensors[f"weight/{i}"])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(step - self.skipped_steps), device=parameter.device),
                    "exp_avg": tensors[f"exp_avg/{i}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{i}"].to(parameter.device),
                }
        self.strategy.resume(select_prefix("strategy", tensors))
        self._parametrization.resume(select_prefix("parametrisation", tensors))
        self.step, self.loss = step, loss

    def close(self) -> None:
        """Release the DeepSpeed engine."""
        self._engine.destroy()
