"""The settings themselves: models of pydantic, a section each. Importable without torch, Ray or vLLM."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer, field_validator, model_validator

from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(_Section):
    """The object store: trajectories, examples, checkpoints, adapters."""

    url: str | None = Field(
        None,
        description="Folder or s3://bucket/prefix. Default: the folder store in home.",
    )
    endpoint_url: str | None = Field(None, description="Address of an S3 server that is not Amazon's.")
    timeout_s: float = Field(
        20.0,
        gt=0,
        description="How long to wait for a connection and for the next bytes.",
    )
    max_retries: int = Field(3, ge=0, description="How often a request that failed on the way is tried again.")

    @field_validator("url")
    @classmethod
    def _whole_path(cls, url: str | None) -> str | None:
        """Workers have folders of their own to be in, so a folder is told to them from the root."""
        return str(Path(url).expanduser().resolve()) if url and "://" not in url else url


class CatalogSettings(_Section):
    """The database of tenants, keys, consolidations, versions and channels."""

    url: str | None = Field(
        None,
        description="SQLAlchemy URL of SQLite or PostgreSQL. Default: the file catalog.sqlite in home.",
    )


class GateSettings(_Section):
    """What a candidate must reach to be published."""

    min_gain: float = Field(
        0.005,
        ge=0,
        description="At equal accuracy, the held-out loss must fall by this share.",
    )
    max_forgetting: float = Field(
        0.02,
        ge=0,
        description="How far accuracy on earlier sessions may fall, or their loss rise if they have no tool calls.",
    )
    max_loops: float = Field(
        0.02, ge=0, description="How far the share of tool calls that repeat the one before may rise."
    )
    max_tool_errors: float = Field(
        0.02,
        ge=0,
        description="How far the share of invalid tool calls may rise.",
    )
    max_control_loss: float = Field(
        4.0,
        gt=1,
        description="Largest loss on tasks of the tenant's other instances, in multiples of the bare base's.",
    )


class ConsolidationSettings(_Section):
    """How consolidations are worked on."""

    recipe: Recipe = Recipe()
    holdout: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the tasks that is kept from training and that the gate asks about.",
    )
    cohort_size: int = Field(16, ge=1, description="Most consolidations in one trainer at once.")
    max_trainers: int = Field(
        1,
        ge=1,
        description="Most trainers at once. Each holds a base model of its own in memory.",
    )
    idle_timeout_s: float = Field(
        300.0,
        gt=0,
        description="A trainer that has had nothing to do for this long ends.",
    )
    max_concurrent_per_tenant: int | None = Field(
        None,
        ge=1,
        description="Most consolidations of one tenant in work at once in each stage. Default: no limit.",
    )
    num_workers: int = Field(1, ge=1, description="Workers of a trainer. Each batch is divided among them.")
    sharded: bool = Field(
        False, description="Whether each worker of a trainer holds a part of the base only (ZeRO stage 3)."
    )
    lease_s: float = Field(
        60.0, gt=0, description="Work whose holder has been silent for this long is taken up by another."
    )
    checkpoint_interval_s: float = Field(
        60.0,
        ge=0,
        description="Least time between two checkpoints of a training run.",
    )
    max_attempts: int = Field(
        5,
        ge=2,
        description="A consolidation fails when this many trainers died of it without a new checkpoint.",
    )
    gate: GateSettings = GateSettings()


SynthesisStage = Literal["schema", "errors", "grade", "segment", "prune", "scrub", "credit", "duplicates", "pairs"]
ModelStage = Literal["judge", "hindsight", "distillation", "critique", "variants", "rules"]


class ModelSettings(_Section):
    """The language model that some stages of synthesis ask."""

    stages: tuple[ModelStage, ...] = Field(
        (),
        description="Stages of synthesis that ask the model. Default: none.",
    )
    endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="OpenAI-compatible endpoint, http://host:port/v1. Default: the base model, in the worker.",
    )
    name: str | None = Field(None, description="Name of the model at the endpoint.")
    api_key: SecretStr | None = Field(
        None,
        description="Key of the endpoint. Best given as an environment variable.",
    )
    timeout_s: float = Field(60.0, gt=0, description="Timeout of one attempt at a request.")
    max_attempts: int = Field(
        5,
        ge=1,
        description="Attempts at a request that was refused for the moment or broke off.",
    )
    deadline_s: float = Field(600.0, gt=0, description="Timeout of all requests of one batch together.")
    max_concurrency: int = Field(8, ge=1, description="Most requests at the endpoint at once.")

    @field_serializer("api_key", when_used="json-unless-none")
    def _whole_key(self, key: SecretStr) -> str:
        """Settings are told as JSON to the processes that use them. Printed or logged, they show no key."""
        return key.get_secret_value()


class SynthesisSettings(_Section):
    """How trajectories become examples."""

    disabled_stages: tuple[SynthesisStage, ...] = Field((), description="Stages that are left out. Default: none.")
    model: ModelSettings = ModelSettings()


class PoolSettings(_Section):
    """Engines for adapters up to one rank: every slot of an engine is as large as its largest adapter."""

    max_lora_rank: int = Field(
        16, ge=1, description="Largest rank that is served. Every adapter slot is allocated at this rank."
    )
    loras_gib: float = Field(1.0, gt=0, description="Device memory for the adapters that one batch mixes.")
    cpu_loras_gib: float = Field(1.25, gt=0, description="Host memory of an engine for adapters.")
    disk_loras_gib: float = Field(4.0, gt=0, description="Disk of a replica for adapters.")
    max_loras: int | None = Field(
        None,
        ge=1,
        description="Most adapters in one batch. Default: as many as are expected and as loras_gib holds.",
    )
    max_cpu_loras: int | None = Field(
        None, ge=1, description="Most adapters in host memory. Default: as many as cpu_loras_gib holds."
    )
    max_disk_loras: int | None = Field(
        None, ge=1, description="Most adapters on a replica's disk. Default: as many as disk_loras_gib holds."
    )
    replicas: int = Field(1, ge=0, description="Engines; where max_replicas is more, the least of them.")
    max_replicas: int | None = Field(
        None, ge=1, description="Most engines: as many run as the load needs. Default: always replicas."
    )

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.replicas == 0 and self.max_replicas is None:
            raise ValueError("replicas 0 needs a max_replicas, or there would never be any")
        return self


class ServeSettings(PoolSettings):
    """The endpoint and its engines."""

    host: str = Field("127.0.0.1", description="Address that the HTTP API listens at.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP API. 0 takes a free one.")
    pools: tuple[PoolSettings, ...] = Field(
        (),
        description="Further engines for larger ranks, each with the settings of this table down to max_replicas.",
    )
    pinned: tuple[str, ...] = Field(
        (),
        description="Skills (tenant/instance) that stay in the engines' memory.",
    )
    max_model_len: int = Field(2048, ge=64, description="Most tokens of prompt and answer together.")
    max_num_seqs: int = Field(16, ge=1, description="Most sequences in one batch, and in one request.")
    expected_adapters: int = Field(
        1000,
        ge=1,
        description="How many adapters are expected to be asked for, with the popularity of Zipf's law.",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Limit of a tenant that has none of its own. Default: no limit."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Tokens read and generated; limit of a tenant that has none of its own. Default: no limit.",
    )
    max_concurrent_requests: int | None = Field(
        None,
        ge=1,
        description="Most requests of one tenant that wait or are answered. Default: four for each place in a batch.",
    )
    kv_cache_gib: float = Field(
        1.0, gt=0, description="KV cache of a CPU engine. A GPU engine takes what memory is free."
    )

    @property
    def all_pools(self) -> tuple[PoolSettings, ...]:
        """This one and ``pools``, the smallest rank first."""
        return tuple(sorted((self, *self.pools), key=lambda pool: pool.max_lora_rank))

    @property
    def largest_rank(self) -> int:
        return self.all_pools[-1].max_lora_rank

    @property
    def max_engines(self) -> int:
        return sum(max(pool.replicas, pool.max_replicas or 0) for pool in self.all_pools)


class Settings(_Section):
    """The whole tree, complete: what processes hand to each other, as JSON."""

    model_config = ConfigDict(hide_input_in_errors=True)

    home: Path = Field(
        Path("~/.looper"),
        validate_default=True,
        description="Folder for the state of this machine: catalog, store, logs.",
    )
    base: str = Field(
        "smollm2-135m",
        description="Base model: the bundled smollm2-135m, a folder, or a name on the Hugging Face hub.",
    )
    store: StoreSettings = StoreSettings()
    catalog: CatalogSettings = CatalogSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    consolidation: ConsolidationSettings = ConsolidationSettings()
    serve: ServeSettings = ServeSettings()

    @field_validator("home")
    @classmethod
    def _whole_path(cls, home: Path) -> Path:
        """Settings travel to workers, which have folders of their own to be in."""
        return home.expanduser().resolve()

    @property
    def store_url(self) -> str:
        return self.store.url or str(self.home / "store")

    @property
    def catalog_url(self) -> str:
        return self.catalog.url or f"sqlite:///{self.home / 'catalog.sqlite'}"

    @property
    def models_dir(self) -> Path:
        """Where prepared base models are kept. Shared by all homes of a user, as they are large and immutable."""
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        return (Path(cache) / "looper" / "models").expanduser()

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise InvalidInput if the server would refuse what this recipe trains."""
        if recipe.rank > self.serve.largest_rank:
            raise InvalidInput(
                f"rank {recipe.rank} is above serve.max_lora_rank {self.serve.largest_rank}, so the adapter could not "
                "be served: lower the recipe's rank, raise LOOPER_SERVE__MAX_LORA_RANK or add a pool for larger ranks"
            )
