"""Train every variant with the same number of steps, evaluate it, and keep every result on disk.

``__main__.py`` calls ``run_variants``. Results that exist are not measured again. Variants with identical examples are
trained once. A process locks the result that it measures and skips results that another process has locked, so several
processes can share one folder.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.ablation.live_evaluation import LiveResult, evaluate_live
from looper.benchmarks.synthesis.ablation.noisy_agent import play_careless_agent
from looper.benchmarks.synthesis.ablation.variants import DISABLED_STAGES, FULL, SUCCESSES_ONLY, build_examples
from looper.gym.workplaces import WORKPLACES
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.session_setup import start_session
from looper.jobs.synthesis.stages.holdout_split import is_holdout
from looper.platform.domain.example import Example
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import Trajectory

INSTANCE = "harbor/dispatch"
TRAINING_TASKS = 40
"""Tasks that the careless agent did."""
HELD_OUT_TASKS = 40
"""Held-out tasks that each skill is evaluated on."""
HOLDOUT_SHARE = 0.2
"""Share of held-out tasks, the default of a consolidation."""
RECIPE = Recipe(strategy="none", learning_rate=2e-3, epochs=1000, max_steps=48, max_seq_length=512)
"""The default recipe, but training ends after the same number of steps for every variant."""


class AblationRow(BaseModel):
    """Result of one variant with one seed. The seed selects tasks, mistakes and the initial adapter."""

    model_config = ConfigDict(frozen=True)

    variant: str
    """Name of the variant."""
    seed: int
    """The seed."""
    digest: str
    """Digest of the examples."""
    examples: int
    """Number of examples."""
    tokens: int
    """Tokens of all training batches, with the context. A prefix that windows share counts once per window."""
    learned: float
    """Sum of the weights of the learned tokens."""
    lived: LiveResult
    """Result on the held-out tasks."""
    seconds: float
    """Duration of training and evaluation."""


EvaluateVariant = Callable[[str, int, Sequence[Example]], AblationRow]
"""Takes a variant, a seed and the variant's examples, and returns the result."""


class AblationTrainer:
    """Trains and evaluates skills on one base model. It needs torch.distributed, see ``single_process_group``."""

    def __init__(
        self, folder: Path, base: SharedBase, recipe: Recipe = RECIPE, held_out_tasks: int = HELD_OUT_TASKS
    ) -> None:
        """Prepare to train on the base model.

        Args:
            folder: Folder of the base model.
            base: The base model, loaded from ``folder`` for training.
            recipe: Recipe of the training. Each result has its own seed.
            held_out_tasks: Number of tasks to evaluate on.
        """
        self._folder, self._base, self._recipe, self._held_out_tasks = folder, base, recipe, held_out_tasks

    def train_and_evaluate(self, variant: str, seed: int, examples: Sequence[Example]) -> AblationRow:
        """Train a new adapter on the examples, and let the skill work on the held-out tasks.

        Args:
            variant: Name of the variant.
            seed: Seed of the training and of the tasks.
            examples: The variant's examples.

        Returns:
            The result.
        """
        started = time.monotonic()
        lora, tokens, learned = self._train(examples, seed)
        workplace = WORKPLACES[INSTANCE]
        tasks = [workplace.task(task_id, seed) for task_id in list_task_ids(held_out=True)[: self._held_out_tasks]]
        return AblationRow(
            variant=variant,
            seed=seed,
            digest=digest_examples(examples),
            examples=len(examples),
            tokens=tokens,
            learned=learned,
            lived=evaluate_live(self._folder, lora, self._base.tokenizer, tasks),
            seconds=time.monotonic() - started,
        )

    def _train(self, examples: Sequence[Example], seed: int) -> tuple[Lora, int, float]:
        """Return the adapter, the number of tokens, and the sum of the weights of the learned tokens."""
        recipe = self._recipe.model_copy(update={"seed": seed})
        windows = ExampleEncoder.open(self._folder, recipe.max_seq_length).encode_all(examples)
        session = start_session(self._base, recipe, windows, None, {})
        tokens, learned = 0, 0.0
        while not session.is_done:
            batch = session.next_batch()
            tokens += sum(map(len, batch))
            learned += sum(window.total_weight for window in batch)
            ((loss, gradients),) = compute_losses_and_gradients(self._base, [session])
            session.take_step(loss, gradients)
        lora, _ = session.export_adapter(recipe.rank)
        session.close()
        return lora, tokens, learned


def run_variants(
    out: Path, planned: Sequence[tuple[str, int]], evaluate: EvaluateVariant, notify: Callable[[str], None]
) -> None:
    """Measure the planned results that are missing.

    Args:
        out: Folder of the results.
        planned: Variants with their seeds, in order.
        evaluate: Trains and evaluates a variant.
        notify: Called with a line of text after each result.
    """
    out.mkdir(parents=True, exist_ok=True)
    for variant, seed in planned:
        file = out / f"{variant.replace(' ', '-')}-{seed}.json"
        with suppress(Timeout), FileLock(file.with_suffix(".lock"), timeout=0):
            if file.exists():
                continue
            examples = build_examples(variant, play_training_episodes(seed))
            key = digest_examples(examples)
            same = next((row for row in load_rows(out) if (row.seed, row.digest) == (seed, key)), None)
            row = evaluate(variant, seed, examples) if same is None else same.model_copy(update={"variant": variant})
            partial = file.with_suffix(".partial")
            partial.write_text(row.model_dump_json(indent=1) + "\n")
            partial.replace(file)
            result = row.lived
            notify(
                f"{variant}, seed {seed}: {result.solved} of {result.episodes} tasks solved, "
                f"{result.looped} with a repeated call"
            )


def load_rows(out: Path) -> list[AblationRow]:
    """Load the results that exist.

    Args:
        out: Folder of the results.

    Returns:
        The results, sorted by file name.
    """
    return [AblationRow.model_validate_json(file.read_bytes()) for file in sorted(out.glob("*-[0-9]*.json"))]


def plan_ablation(seeds: Sequence[int], only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Plan the results: first both variants that are compared, then the variants with one stage less.

    Args:
        seeds: The seeds.
        only: Variants to measure. By default all are measured.

    Returns:
        Variants with their seeds, in order.
    """
    compared = (SUCCESSES_ONLY, FULL)
    ablated = [variant for variant in DISABLED_STAGES if variant not in compared]
    order = [(variant, seed) for variants in (compared, ablated) for seed, variant in product(seeds, variants)]
    return [(variant, seed) for variant, seed in order if not only or variant in only]


def play_training_episodes(seed: int) -> list[Trajectory]:
    """Play the careless agent on the training tasks.

    Args:
        seed: Seed of the tasks and of the mistakes.

    Returns:
        The trajectories that all variants make their examples of.
    """
    return play_careless_agent(WORKPLACES[INSTANCE], list_task_ids(held_out=False)[:TRAINING_TASKS], seed)


def list_task_ids(*, held_out: bool) -> list[str]:
    """List task ids of one side of the split, more than the benchmark needs.

    Args:
        held_out: Whether to list held-out tasks or training tasks.

    Returns:
        The ids.
    """
    ids = WORKPLACES[INSTANCE].task_ids(10 * (TRAINING_TASKS + HELD_OUT_TASKS))
    return [task_id for task_id in ids if is_holdout(task_id, HOLDOUT_SHARE) is held_out]


def digest_examples(examples: Sequence[Example]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``examples``. Equal digests mean identical examples."""
    lines = "\n".join(example.model_dump_json() for example in examples)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
