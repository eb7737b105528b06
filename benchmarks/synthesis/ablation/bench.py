"""Train every variant with the same budget, let it work, and keep every row: what is there is not done again.

Variants whose examples are the same, byte for byte, are trained once. Who is at a row holds its lock, so that several
processes can share one folder; what another is at is left to it.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.synthesis.ablation.live_evaluation import LiveResult, live
from looper.benchmarks.synthesis.ablation.noisy_agent import trajectories
from looper.benchmarks.synthesis.ablation.variants import FULL, SUCCESSES, WITHOUT, examples
from looper.gym.workplaces import WORKPLACES
from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.data.encode import encode
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import losses_and_gradients
from looper.jobs.consolidation.training.session import begin
from looper.jobs.synthesis.stages.holdout_split import is_holdout
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory

INSTANCE = "harbor/dispatch"
TASKS = 40
"""That the careless agent did."""
HELD_OUT = 40
"""That the skills are asked to do, of the share that a consolidation holds out by default."""
SHARE = 0.2
RECIPE = Recipe(strategy="none", epochs=1000, max_steps=48, max_seq_length=512)
"""As a consolidation is by default, but for its end: after the same number of steps for every variant."""


class AblationRow(BaseModel):
    """One variant with one seed, which draws tasks and noise and begins the adapter."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seed: int
    digest: str
    """Of the examples."""
    examples: int
    tokens: int
    """That went through the model in training, context included; a beginning that windows share counts each time."""
    learned: float
    """Sum of the weights of the tokens that were learned."""
    lived: LiveResult
    seconds: float


TryOut = Callable[[str, int, Sequence[Example]], AblationRow]
"""Takes a variant, a seed and the variant's examples."""


class AblationTrainer:
    """Trains and lives on the base model of ``folder``. Needs torch.distributed, as ``alone`` sets it up."""

    def __init__(self, folder: Path, base: SharedBase, recipe: Recipe = RECIPE, held_out: int = HELD_OUT) -> None:
        self._folder, self._base, self._recipe, self._held_out = folder, base, recipe, held_out

    def try_out(self, variant: str, seed: int, learned_from: Sequence[Example]) -> AblationRow:
        """Train on these examples from the bare base, and let the skill work on the held-out tasks."""
        began = time.monotonic()
        lora, tokens, learned = self._train(learned_from, seed)
        place = WORKPLACES[INSTANCE]
        tasks = [place.task(id, seed) for id in task_ids(held_out=True)[: self._held_out]]
        return AblationRow(
            variant=variant,
            seed=seed,
            digest=digest(learned_from),
            examples=len(learned_from),
            tokens=tokens,
            learned=learned,
            lived=live(self._folder, lora, self._base.tokenizer, tasks),
            seconds=time.monotonic() - began,
        )

    def _train(self, learned_from: Sequence[Example], seed: int) -> tuple[Lora, int, float]:
        recipe = self._recipe.model_copy(update={"seed": seed})
        windows = [w for each in learned_from for w in encode(each, self._base.tokenizer, recipe.max_seq_length)]
        tenant = begin(self._base, recipe, windows, None, {})
        tokens, learned = 0, 0.0
        while not tenant.done:
            batch = tenant.batch()
            tokens += sum(map(len, batch))
            learned += sum(sum(window.weights) for window in batch)
            ((loss, gradients),) = losses_and_gradients(self._base, [tenant])
            tenant.advance(loss, gradients)
        lora, _ = tenant.finish(recipe.rank)
        tenant.close()
        return lora, tokens, learned


def run(out: Path, wanted: Sequence[tuple[str, int]], try_out: TryOut, notify: Callable[[str], None]) -> None:
    """Do what is missing of ``wanted``: variants with their seeds, in order."""
    out.mkdir(parents=True, exist_ok=True)
    for variant, seed in wanted:
        file = out / f"{variant.replace(' ', '-')}-{seed}.json"
        with suppress(Timeout), FileLock(file.with_suffix(".lock"), timeout=0):
            if file.exists():
                continue
            learned_from = examples(variant, played(seed))
            key = digest(learned_from)
            twin = next((row for row in rows(out) if (row.seed, row.digest) == (seed, key)), None)
            row = try_out(variant, seed, learned_from) if twin is None else twin.model_copy(update={"variant": variant})
            partial = file.with_suffix(".partial")
            partial.write_text(row.model_dump_json(indent=1) + "\n")
            partial.replace(file)
            lived = row.lived
            notify(f"{variant}, seed {seed}: {lived.solved} of {lived.episodes} solved, {lived.looped} looped")


def rows(out: Path) -> list[AblationRow]:
    """What there is."""
    return [AblationRow.model_validate_json(file.read_bytes()) for file in sorted(out.glob("*-[0-9]*.json"))]


def plan(seeds: Sequence[int], only: Sequence[str] = ()) -> list[tuple[str, int]]:
    """The two that are compared first, for all seeds; then seed by seed, a stage less each."""
    ablations = [variant for variant in WITHOUT if variant not in (FULL, SUCCESSES)]
    order = [*((v, s) for s, v in product(seeds, (SUCCESSES, FULL))), *((v, s) for s, v in product(seeds, ablations))]
    return [(variant, seed) for variant, seed in order if not only or variant in only]


def played(seed: int) -> list[Trajectory]:
    """What the careless agent left."""
    return trajectories(WORKPLACES[INSTANCE], task_ids(held_out=False)[:TASKS], seed)


def task_ids(*, held_out: bool) -> list[str]:
    """Enough of either side of the split."""
    ids = WORKPLACES[INSTANCE].task_ids(10 * (TASKS + HELD_OUT))
    return [id for id in ids if is_holdout(id, SHARE) is held_out]


def digest(learned_from: Sequence[Example]) -> str:
    lines = "\n".join(example.model_dump_json() for example in learned_from)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
