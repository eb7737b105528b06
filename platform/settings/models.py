"""The settings themselves: one pydantic model per section. Imports neither torch nor Ray nor vLLM.

To add a setting, add a field with default, bounds and description here, then regenerate docs/reference/settings.md.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.settings.roles import ClusterSettings, RoleSettings
from looper.platform.settings.serving import BaseEngineSettings, ServeSettings
from looper.platform.settings.storage import CatalogSettings, SettingsSection, StoreSettings
from looper.platform.settings.training import ConsolidationSettings, TrainerSettings

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


class FurtherBaseSettings(SettingsSection):
    """A base model beside the first one. What is not given has its default, whatever the first one has."""

    base: str = Field(description="Base model, as for the setting base.")
    serve: BaseEngineSettings = Field(BaseEngineSettings(), description="Its engines.")
    consolidation: TrainerSettings = Field(TrainerSettings(), description="Its trainers.")


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
    bases: tuple[FurtherBaseSettings, ...] = Field(
        (),
        description="More base models. Each has base, and what is not the default in serve (from max_lora_rank to "
        "kv_cache_gib) and in consolidation (from cohort_size to sharded).",
    )
    store: StoreSettings = Field(StoreSettings(), description="The object store.")
    catalog: CatalogSettings = Field(CatalogSettings(), description="The catalog.")
    synthesis: SynthesisSettings = Field(SynthesisSettings(), description="How trajectories become examples.")
    consolidation: ConsolidationSettings = Field(ConsolidationSettings(), description="How adapters are trained.")
    serve: ServeSettings = Field(ServeSettings(), description="The endpoint and its engines.")
    cluster: ClusterSettings = Field(ClusterSettings(), description="The Ray that Looper runs on.")
    roles: RoleSettings = Field(RoleSettings(), description="Which nodes of the cluster carry what.")
    api: ApiSettings = Field(ApiSettings(), description="Limits of each tenant on the control plane.")

    @model_validator(mode="after")
    def _check_bases(self) -> Self:
        if repeated := [name for name, count in Counter(self.base_names).items() if count > 1]:
            raise ValueError(f"base model {repeated[0]!r} is named twice: each has one entry")
        return self

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

    @property
    def base_names(self) -> tuple[str, ...]:
        """Names of all base models. Instances are on the first one, unless they were put on another."""
        return (self.base, *(further.base for further in self.bases))

    @property
    def max_engines(self) -> int:
        """Maximum number of engines of all base models together."""
        return sum(self.for_base(name).serve.max_engines for name in self.base_names)

    def for_base(self, name: str) -> "Settings":
        """Return the same settings with another base model first: ``base``, ``serve`` and ``consolidation`` are its.

        Args:
            name: Name of the base model.

        Raises:
            InvalidInput: The settings have no such base model.
        """
        if name == self.base:
            return self
        chosen = next((further for further in self.bases if further.base == name), None)
        if chosen is None:
            raise InvalidInput(f"base model {name!r} is not one of this cluster: {', '.join(self.base_names)}")
        first = FurtherBaseSettings(
            base=self.base,
            serve=BaseEngineSettings(**_values_of(self.serve, BaseEngineSettings)),
            consolidation=TrainerSettings(**_values_of(self.consolidation, TrainerSettings)),
        )
        return self.model_copy(
            update={
                "base": name,
                "bases": (first, *(further for further in self.bases if further is not chosen)),
                "serve": self.serve.model_copy(update=_values_of(chosen.serve, BaseEngineSettings)),
                "consolidation": self.consolidation.model_copy(
                    update=_values_of(chosen.consolidation, TrainerSettings)
                ),
            }
        )

    def check_recipe(self, recipe: Recipe, base: str | None = None) -> None:
        """Check that the server can serve what a recipe trains.

        Args:
            recipe: The recipe.
            base: Base model that it trains on. None: any of the cluster's.

        Raises:
            InvalidInput: Its rank is above the maximum rank that is served, a value is above its bound, or there is no
                such base model.
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
        max_rank = max(self.for_base(name).serve.max_rank for name in ([base] if base else self.base_names))
        if recipe.rank > max_rank:
            raise InvalidInput(
                f"rank {recipe.rank} is above serve.max_lora_rank {max_rank}, so the adapter could not be "
                "served: lower the recipe's rank, raise LOOPER_SERVE__MAX_LORA_RANK, or add a pool for larger ranks"
            )


def _values_of(section: SettingsSection, model: type[SettingsSection]) -> dict[str, Any]:
    """Return what ``section`` has for the fields of ``model``, which it extends."""
    return {name: getattr(section, name) for name in model.model_fields}
