"""Execute the runs of the benchmark, and keep the result of every arm on disk.

A run is one tenant with one seed on one base model. ``bench.py`` plans the runs and calls ``execute_run``.

Files below the output folder, in ``runs/<key>/``: ``run.json`` holds the settings, ``skill/`` the adapter and how it
was trained, and ``<arm>.json`` the result of an arm. Each result is written last and atomically, so an existing file
means that it is complete: the same command measures what is missing. The key is a digest of the settings, which include
a digest of all examples. A process holds the file ``lock`` of the run that it executes, so several processes can share
one folder. If a recipe cannot learn, ``failed.txt`` gets the reason, and the other runs continue.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.real_tenants.actions import ActionResult
from looper.benchmarks.real_tenants.arms import ArmPrompts, TenantArm
from looper.benchmarks.real_tenants.model import SkillTraining, TenantModel, count_trained_tokens
from looper.benchmarks.real_tenants.tenants import TenantSplit
from looper.jobs.consolidation.adapters.adapter_file import read_adapter_files, serialize_config, serialize_weights
from looper.jobs.consolidation.adapters.lora import Lora
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe

_PROMPTS = 2
"""Changes with what ``arms.py`` puts into prompts and with what ``actions.py`` counts."""


class TenantRun(BaseModel):
    """All settings that the results of one run depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    """Name of the tenant."""
    base: str
    """Name of the base model."""
    revision: str
    """Revision of the base model."""
    recipe: Recipe
    """The recipe. Its seed also says which fold is held out."""
    data: str
    """Digest of all examples."""
    prompts: int = _PROMPTS
    """Version of the prompts."""

    @classmethod
    def of(cls, split: TenantSplit, base: str, revision: str, recipe: Recipe) -> Self:
        """Make the settings of a run.

        Args:
            split: The tenant's examples with the seed of ``recipe``.
            base: Name of the base model.
            revision: Revision of the base model.
            recipe: The recipe.

        Returns:
            The settings.
        """
        digest = hashlib.sha256(split.tenant.policy.encode())
        for examples in (split.train, split.memory, split.holdout):
            for example in examples:
                digest.update(example.model_dump_json().encode())
        return cls(tenant=split.tenant.name, base=base, revision=revision, recipe=recipe, data=digest.hexdigest()[:16])

    @property
    def key(self) -> str:
        """Folder name of the results: the first 16 hexadecimal digits of the SHA-256 of the settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def question(self) -> str:
        """What is asked, whichever base model answers."""
        return self.model_copy(update={"base": "", "revision": ""}).key

    @property
    def name(self) -> str:
        """Short description for people."""
        return f"{self.tenant}, seed {self.recipe.seed}"


class ArmResult(BaseModel):
    """Result of one arm of a run."""

    model_config = ConfigDict(frozen=True)

    actions: tuple[ActionResult, ...]
    """One result for each held-out action."""
    left_out: int
    """Actions that could not be encoded."""
    tokens: int
    """Tokens of all prompts and answers, each prefix of an episode counted once."""
    seconds: float
    """Duration of the evaluation."""


class TenantResult(BaseModel):
    """What is known of a run."""

    model_config = ConfigDict(frozen=True)

    run: TenantRun
    """The settings."""
    arms: dict[TenantArm, ArmResult]
    """The finished arms."""
    training: SkillTraining | None
    """How the skill was trained; None before that."""
    failure: str | None
    """Why it could not be trained, or None."""

    @property
    def is_complete(self) -> bool:
        """Whether all arms are finished."""
        return len(self.arms) == len(TenantArm)


class RunCost(BaseModel):
    """What a run costs."""

    model_config = ConfigDict(frozen=True)

    trained_tokens: int
    """Tokens of all optimizer steps."""
    evaluated_tokens: int
    """Tokens of the prompts of all arms."""
    actions: int
    """Number of held-out actions."""


def measure_cost(run: TenantRun, split: TenantSplit, model: TenantModel) -> RunCost:
    """Count the tokens of a run.

    Args:
        run: The settings.
        split: The tenant's examples.
        model: The base model.

    Returns:
        The cost, as if nothing were done yet.
    """
    prompts = model.make_prompts(split)
    encoded = [model.encode_actions(prompts, arm) for arm in TenantArm]
    return RunCost(
        trained_tokens=count_trained_tokens(model.encode_training(prompts, run.recipe), run.recipe),
        evaluated_tokens=sum(each.tokens for each in encoded),
        actions=len(encoded[0]),
    )


def execute_run(
    run: TenantRun, split: TenantSplit, model: TenantModel, out: Path, notify: Callable[[str], None]
) -> None:
    """Execute what is missing of a run. A run that another process executes is left to it.

    Args:
        run: The settings.
        split: The tenant's examples.
        model: The base model.
        out: Folder of the results.
        notify: Called with a line before the training and before each arm.
    """
    folder = out / "runs" / run.key
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _execute(run, split, model, folder, notify)
    except Timeout:
        notify(f"{run.name}: another process executes it")


def load_results(out: Path) -> list[TenantResult]:
    """Load what is known of all runs in a folder.

    Args:
        out: Folder of the results.

    Returns:
        The results, those of runs that are not complete included.
    """
    return [_load_result(file.parent) for file in sorted(out.glob("runs/*/run.json"))]


def select_results(results: Iterable[TenantResult], runs: Sequence[TenantRun]) -> list[TenantResult]:
    """Select the results that answer the same questions as the planned runs, of any base model.

    Args:
        results: Results of any runs.
        runs: The planned runs.

    Returns:
        The selected results.
    """
    asked = {run.question for run in runs}
    return [result for result in results if result.run.question in asked]


def _execute(
    run: TenantRun, split: TenantSplit, model: TenantModel, folder: Path, notify: Callable[[str], None]
) -> None:
    _write_atomically(folder / "run.json", run.model_dump_json(indent=1).encode())
    if not split.holdout or (folder / "failed.txt").exists():
        return
    prompts = model.make_prompts(split)
    for arm in TenantArm:
        file = _arm_file(folder, arm)
        if file.exists():
            continue
        adapter = None
        if arm.has_skill:
            try:
                adapter = _load_or_train(run, prompts, model, folder / "skill", notify)
            except InvalidInput as error:
                _write_atomically(folder / "failed.txt", str(error).encode())
                notify(f"{run.name}: failed: {error}")
                return
        encoded = model.encode_actions(prompts, arm)
        notify(f"{run.name}: {arm}, {encoded.tokens} tokens")
        started = time.monotonic()
        actions = model.evaluate(encoded, adapter)
        result = ArmResult(
            actions=tuple(actions),
            left_out=encoded.left_out,
            tokens=encoded.tokens,
            seconds=time.monotonic() - started,
        )
        _write_atomically(file, result.model_dump_json(indent=1).encode())


def _load_or_train(
    run: TenantRun, prompts: ArmPrompts, model: TenantModel, folder: Path, notify: Callable[[str], None]
) -> Lora:
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if (folder / "training.json").exists():
        return read_adapter_files(weights.read_bytes(), config.read_bytes())
    windows = model.encode_training(prompts, run.recipe)
    notify(f"{run.name}: training on {count_trained_tokens(windows, run.recipe)} tokens")
    adapter, training = model.train(windows, len(prompts.training_examples(run.recipe)), run.recipe)
    folder.mkdir(exist_ok=True)
    _write_atomically(weights, serialize_weights(adapter))
    _write_atomically(config, serialize_config(adapter, run.base))
    _write_atomically(folder / "training.json", training.model_dump_json(indent=1).encode())
    return adapter


def _load_result(folder: Path) -> TenantResult:
    arms = {arm: _arm_file(folder, arm) for arm in TenantArm}
    training, failed = folder / "skill" / "training.json", folder / "failed.txt"
    return TenantResult(
        run=TenantRun.model_validate_json((folder / "run.json").read_bytes()),
        arms={arm: ArmResult.model_validate_json(file.read_bytes()) for arm, file in arms.items() if file.exists()},
        training=SkillTraining.model_validate_json(training.read_bytes()) if training.exists() else None,
        failure=failed.read_text() if failed.exists() else None,
    )


def _arm_file(folder: Path, arm: TenantArm) -> Path:
    return folder / f"{arm.name.lower()}.json"


def _write_atomically(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
