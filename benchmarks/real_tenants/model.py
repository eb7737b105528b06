"""The base model of the benchmark: encodes prompts, trains skills, and evaluates actions, in this process.

``run.py`` calls it. Training is the step of a trainer, without the queue and the object store around it.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from looper.basemodel.chat_renderer import ChatRenderer
from looper.benchmarks.real_tenants.actions import ActionResult, EncodedActions
from looper.benchmarks.real_tenants.arms import MAX_PROMPT_TOKENS, ArmPrompts, TenantArm, write_call
from looper.benchmarks.real_tenants.tenants import TenantSplit
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.schedule import batch_at, total_steps
from looper.jobs.consolidation.training.session_setup import start_session
from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.recipe import Recipe


class SkillTraining(BaseModel):
    """How a skill was trained."""

    model_config = ConfigDict(frozen=True)

    examples: int
    """Number of examples."""
    windows: int
    """Number of windows."""
    steps: int
    """Number of optimizer steps."""
    tokens: int
    """Tokens of all steps."""
    seconds: float
    """Duration of the training."""
    losses: tuple[float, ...]
    """Loss of each step, in nats per token."""


class TenantModel:
    """A base model. Training needs torch.distributed, which ``single_process_group`` sets up."""

    def __init__(self, folder: Path, base: SharedBase, max_rank: int) -> None:
        """Prepare.

        Args:
            folder: Folder of the base model.
            base: The same base model, loaded.
            max_rank: Rank that adapters are padded or truncated to.
        """
        manifest = read_base_manifest(folder)
        self.revision = manifest.revision
        self._parsers = manifest.parsers
        self._base = base
        self._max_rank = max_rank
        self._renderer = ChatRenderer(folder)

    def make_prompts(self, split: TenantSplit) -> ArmPrompts:
        """Return the prompts of all arms for a ``split``."""
        return ArmPrompts(split, partial(write_call, self._renderer), self._count_tokens)

    def encode_training(self, prompts: ArmPrompts, recipe: Recipe) -> list[Window]:
        """Return the windows that a skill is trained on.

        Args:
            prompts: What ``make_prompts`` returned.
            recipe: The recipe.
        """
        encoder = ExampleEncoder(self._renderer, self._parsers, recipe.max_seq_length)
        return encoder.encode_all(prompts.training_examples(recipe))

    def encode_actions(self, prompts: ArmPrompts, arm: TenantArm) -> EncodedActions:
        """Return the held-out actions as an arm is asked them.

        Args:
            prompts: What ``make_prompts`` returned.
            arm: The arm.
        """
        longest = min(MAX_PROMPT_TOKENS, self._renderer.model_config.max_model_len)
        encoder = ExampleEncoder(self._renderer, self._parsers, longest)
        return EncodedActions(prompts.asked_examples(arm), encoder, self._renderer.tokenizer.decode)

    def train(self, windows: Sequence[Window], examples: int, recipe: Recipe) -> tuple[Lora, SkillTraining]:
        """Train a skill from nothing.

        Args:
            windows: The windows.
            examples: Number of examples that they are of.
            recipe: The recipe.

        Returns:
            The skill as it would be served, and how it was trained.

        Raises:
            InvalidInput: The recipe cannot learn the examples, for instance because the loss is not finite.
        """
        started = time.monotonic()
        session = start_session(self._base, recipe, windows, None, {})
        losses = []
        while not session.is_done:
            ((loss, gradients),) = compute_losses_and_gradients(self._base, [session])
            losses.append(float(loss))
            session.take_step(loss, gradients)
        adapter, _ = session.export_adapter(self._max_rank)
        steps = session.step
        session.close()
        seconds = time.monotonic() - started
        tokens = count_trained_tokens(windows, recipe)
        return adapter, SkillTraining(
            examples=examples,
            windows=len(windows),
            steps=steps,
            tokens=tokens,
            seconds=seconds,
            losses=tuple(losses),
        )

    def measure_rate(self, prompts: ArmPrompts, recipe: Recipe) -> float:
        """Return how many tokens a second are trained here, by one optimizer step.

        Args:
            prompts: What ``make_prompts`` returned.
            recipe: The recipe.
        """
        windows = self.encode_training(prompts, recipe)
        _, training = self.train(windows, 0, recipe.model_copy(update={"max_steps": 1}))
        return training.tokens / training.seconds

    def evaluate(self, actions: EncodedActions, adapter: Lora | None) -> list[ActionResult]:
        """Return what an ``adapter`` says in the place of held-out ``actions``; None is the base model alone."""
        if adapter is None:
            return actions.evaluate(self._base, None)
        return actions.evaluate(
            self._base, {layer: factors.to(self._base.device) for layer, factors in adapter.items()}
        )

    def _count_tokens(self, text: str) -> int:
        return len(self._renderer.tokenizer.encode(text, add_special_tokens=False))


def count_trained_tokens(windows: Sequence[Window], recipe: Recipe) -> int:
    """Return the tokens of all optimizer steps.

    Args:
        windows: The windows.
        recipe: Gives batches and epochs.
    """
    if not windows:
        return 0
    steps = range(total_steps(len(windows), recipe))
    return sum(len(windows[number]) for step in steps for number in batch_at(step, len(windows), recipe))
