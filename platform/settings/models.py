"""The settings themselves: one pydantic model per section. Imports neither torch nor Ray nor vLLM.

To add a setting, add a field with default, bounds and description here, then regenerate docs/reference/settings.md.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.settings.roles import ClusterSettings, RoleSettings
from looper.platform.settings.serving import AcceleratorType, ServeSettings
from looper.platform.settings.storage import CatalogSettings, SettingsSection, StoreSettings


class GateSettings(SettingsSection):
    """What a candidate must reach to be published."""

    min_gain: float = Field(0.005, ge=0, description="At equal accuracy, the held-out loss must fall by this fraction.")
    max_forgetting: float = Field(
        0.02,
        ge=0,
        description="Maximum fall of accuracy on earlier sessions, or rise of their loss if they have no tool calls.",
    )
    max_loops: float = Field(
        0.02, ge=0, description="Maximum rise of the fraction of tool calls that repeat the call before."
    )
    max_tool_errors: float = Field(0.02, ge=0, description="Maximum rise of the fraction of invalid tool calls.")
    max_control_loss: float = Field(
        4.0,
        gt=1,
        description="Maximum loss on tasks of the tenant's other instances, as a multiple of the base model's loss.",
    )


class ConsolidationSettings(SettingsSection):
    """How consolidations are trained and tested."""

    recipe: Recipe = Field(Recipe(), description="Default recipe.")
    holdout: float = Field(
        0.2, gt=0, lt=1, description="Fraction of the tasks that is kept from training, for the gate."
    )
    cohort_size: int = Field(16, ge=1, description="Maximum consolidations in one trainer at the same time.")
    max_trainers: int = Field(
        1, ge=1, description="Maximum trainers at the same time. Each holds a base model of its own in memory."
    )
    idle_timeout_s: float = Field(300.0, gt=0, description="A trainer without work exits after this time.")
    max_concurrent_per_tenant: int | None = Field(
        None,
        ge=1,
        description="Maximum consolidations of one tenant that are worked on at the same time in each stage. "
        "Default: no limit.",
    )
    num_workers: int = Field(1, ge=1, description="Workers of a trainer. Each batch is divided among them.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="A trainer goes on with this number of workers while there is no room for num_workers, as after "
        "a node died, and grows again. Default: it waits for num_workers.",
    )
    accelerator_type: AcceleratorType | None = Field(
        None, description="Type of the GPUs of the trainers, as Ray names it, such as A100. Default: any."
    )
    sharded: bool = Field(
        False, description="Whether each worker of a trainer holds only a part of the base model (ZeRO stage 3)."
    )
    lease_s: float = Field(
        60.0,
        gt=0,
        description="Another worker takes over a consolidation whose holder did not renew its lease for this time. "
        "A holder renews it three times as often, while it makes progress.",
    )
    progress_timeout_s: float = Field(
        600.0,
        gt=0,
        description="A holder that advances nothing for this time (no pass over the base model, no example encoded, no "
        "object written) no longer renews its leases. A trainer is killed and started again.",
    )
    start_timeout_s: float = Field(
        1800.0, gt=0, description="A trainer that has not loaded its base model after this time is killed."
    )
    checkpoint_interval_s: float = Field(
        60.0, ge=0, description="Minimum time between two checkpoints of a training run."
    )
    max_steps_per_job: int = Field(
        100_000,
        ge=1,
        description="Maximum optimizer steps of a consolidation. One that needs more is refused or fails.",
    )
    max_tokens_per_job: int = Field(
        1_000_000_000,
        ge=1,
        description="Maximum tokens that a consolidation trains on, over all epochs. One that needs more fails.",
    )
    max_hours_per_job: float = Field(
        24.0, gt=0, description="A consolidation that has held a place in trainers for this time fails."
    )
    max_tokens_per_step: int = Field(
        65_536,
        ge=32,
        description="Maximum batch_size times max_seq_length of a recipe. The other members of a trainer wait for a "
        "step of this size.",
    )
    max_wait_s: float = Field(
        600.0,
        gt=0,
        description="When all places of a trainer are taken and another tenant's consolidation has waited this long, "
        "one of the tenant with the most places is paused at a checkpoint and waits in turn.",
    )
    max_attempts: int = Field(
        5, ge=2, description="A consolidation fails after this many trainers died of it without a new checkpoint."
    )
    gate: GateSettings = Field(GateSettings(), description="What a candidate must reach.")

    @field_validator("min_workers")
    @classmethod
    def _check_min_workers(cls, min_workers: int | None, others: ValidationInfo) -> int | None:
        num_workers = others.data.get("num_workers")
        if min_workers is not None and num_workers is not None and min_workers > num_workers:
            raise ValueError(f"it is above num_workers, which is {num_workers}")
        return min_workers


SynthesisStage = Literal["schema", "errors", "grade", "segment", "prune", "scrub", "credit", "duplicates", "pairs"]
Reasoning = Literal["learn", "mask", "drop"]
ModelStage = Literal["judge", "hindsight", "distillation", "critique", "variants", "rules"]


class ModelSettings(SettingsSection):
    """The language model that some stages of synthesis call."""

    stages: tuple[ModelStage, ...] = Field((), description="Stages of synthesis that call the model. Default: none.")
    endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="OpenAI-compatible endpoint, http://host:port/v1. Default: the base model, on the engines of the "
        "cluster, or without a cluster inside the worker.",
    )
    name: str | None = Field(None, description="Name of the model at the endpoint.")
    api_key: SecretStr | None = Field(
        None, description="API key of the endpoint. Better set it by an environment variable than in the file."
    )
    timeout_s: float = Field(60.0, gt=0, description="Timeout of one attempt of a request.")
    max_attempts: int = Field(
        5, ge=1, description="Maximum attempts of a request that the endpoint refused temporarily or that broke off."
    )
    deadline_s: float = Field(600.0, gt=0, description="Timeout of all requests of one batch together.")
    max_concurrency: int = Field(8, ge=1, description="Maximum concurrent requests at the endpoint.")

    @field_serializer("api_key", when_used="json-unless-none")
    def _reveal(self, key: SecretStr) -> str:
        """Write the key into JSON, which other processes of Looper get. Printed or logged settings hide it."""
        return key.get_secret_value()


class SynthesisSettings(SettingsSection):
    """How trajectories become training examples."""

    disabled_stages: tuple[SynthesisStage, ...] = Field((), description="Stages that are skipped. Default: none.")
    reasoning: Reasoning | None = Field(
        None,
        description="What happens to an agent's reasoning: it is learned, it is context only, or it is left out. "
        "Default: learned if the engine reads it from the base model's answers, or else left out.",
    )
    model: ModelSettings = Field(ModelSettings(), description="The language model that some stages call.")


class ApiSettings(SettingsSection):
    """Limits of each tenant on the control plane, ``/api/v1``. Inference has limits of its own, in ``serve``."""

    requests_per_minute: int = Field(1200, ge=1, description="Maximum requests of one tenant per minute.")
    max_concurrent_requests: int = Field(16, ge=1, description="Maximum requests of one tenant that wait or run.")


def models_folder() -> Path:
    """Return the folder of base models on this node. All homes of a user share it: models are large and immutable."""
    return (Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "looper" / "models").expanduser()


class Settings(SettingsSection):
    """The complete tree. Processes pass it to each other as JSON."""

    model_config = ConfigDict(hide_input_in_errors=True)

    home: Path = Field(
        Path("~/.looper"),
        validate_default=True,
        description="Folder for the state of this machine: catalog, store, logs.",
    )
    base: str = Field(
        "smollm2-135m", description="Base model: the bundled smollm2-135m, a folder, or a name on the Hugging Face hub."
    )
    store: StoreSettings = Field(StoreSettings(), description="The object store.")
    catalog: CatalogSettings = Field(CatalogSettings(), description="The catalog.")
    synthesis: SynthesisSettings = Field(SynthesisSettings(), description="How trajectories become examples.")
    consolidation: ConsolidationSettings = Field(ConsolidationSettings(), description="How adapters are trained.")
    serve: ServeSettings = Field(ServeSettings(), description="The endpoint and its engines.")
    cluster: ClusterSettings = Field(ClusterSettings(), description="The Ray that Looper runs on.")
    roles: RoleSettings = Field(RoleSettings(), description="Which nodes of the cluster carry what.")
    api: ApiSettings = Field(ApiSettings(), description="Limits of each tenant on the control plane.")

    @field_validator("home")
    @classmethod
    def _make_absolute(cls, home: Path) -> Path:
        """Make the folder absolute, because settings are passed to workers that have other working directories."""
        return home.expanduser().resolve()

    def __getstate__(self) -> dict[Any, Any]:
        """Return what is pickled. A home below the user's own folder is that of each user, on each node."""
        state = dict(super().__getstate__())
        if self.home.is_relative_to(Path.home()):
            state["__dict__"] = state["__dict__"] | {"home": Path("~") / self.home.relative_to(Path.home())}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Take over what was pickled, on whatever node."""
        values = state["__dict__"]
        super().__setstate__(state | {"__dict__": values | {"home": values["home"].expanduser()}})

    @property
    def store_url(self) -> str:
        """Folder or URL of the object store."""
        return self.store.url or str(self.home / "store")

    @property
    def catalog_url(self) -> str:
        """SQLAlchemy URL of the catalog."""
        return self.catalog.url or f"sqlite:///{self.home / 'catalog.sqlite'}"

    @property
    def models_dir(self) -> Path:
        """Folder of prepared base models."""
        return models_folder()

    def check_recipe(self, recipe: Recipe) -> None:
        """Check that the server can serve what a recipe trains.

        Args:
            recipe: The recipe.

        Raises:
            InvalidInput: Its rank is above the maximum rank that is served, or a value is above its bound.
        """
        limits = self.consolidation
        try:
            Recipe.model_validate(recipe.model_dump())  # one that an earlier version stored may be above a bound
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInput(f"{first['loc'][0]} of the recipe: {first['msg']}, not {first['input']}") from error
        if recipe.max_steps is not None and recipe.max_steps > limits.max_steps_per_job:
            raise InvalidInput(
                f"max_steps {recipe.max_steps} is above consolidation.max_steps_per_job {limits.max_steps_per_job}: "
                "lower the recipe's max_steps, or raise LOOPER_CONSOLIDATION__MAX_STEPS_PER_JOB"
            )
        tokens = recipe.batch_size * recipe.max_seq_length
        if tokens > limits.max_tokens_per_step:
            raise InvalidInput(
                f"batch_size {recipe.batch_size} times max_seq_length {recipe.max_seq_length} is {tokens}, above "
                f"consolidation.max_tokens_per_step {limits.max_tokens_per_step}: lower one of the two, or raise "
                "LOOPER_CONSOLIDATION__MAX_TOKENS_PER_STEP"
            )
        if recipe.rank > self.serve.max_rank:
            raise InvalidInput(
                f"rank {recipe.rank} is above serve.max_lora_rank {self.serve.max_rank}, so the adapter could not be "
                "served: lower the recipe's rank, raise LOOPER_SERVE__MAX_LORA_RANK, or add a pool for larger ranks"
            )
