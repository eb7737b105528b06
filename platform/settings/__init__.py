"""All settings, in one tree: flags over environment variables (``LOOPER_SERVE__PORT=9000``) over ``looper.yaml``.

Importable without torch, Ray or vLLM. With nothing configured, everything runs on one machine: a folder, SQLite, a
local Ray and the SmolLM2-135M that a package carries.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(_Section):
    url: str | None = Field(None, description="folder or s3://bucket/prefix; default: store/ in home")
    endpoint_url: str | None = Field(None, description="of an S3 server that is not Amazon's")
    timeout_s: float = Field(20.0, gt=0, description="to connect, and to wait for bytes")
    retries: int = Field(3, ge=0, description="further tries of a request that failed on the way")

    @field_validator("url")
    @classmethod
    def _whole_path(cls, url: str | None) -> str | None:
        """Workers have folders of their own to be in, so a folder is told to them from the root."""
        return str(Path(url).expanduser().resolve()) if url and "://" not in url else url


class CatalogSettings(_Section):
    url: str | None = Field(None, description="SQLAlchemy URL; default: catalog.sqlite in home")


class GateSettings(_Section):
    min_gain: float = Field(0.005, ge=0, description="at equal accuracy, the held-out loss must fall by this share")
    max_forgetting: float = Field(
        0.02, ge=0, description="most that accuracy on earlier sessions may fall, or without calls their loss rise by"
    )
    max_loops: float = Field(0.02, ge=0, description="most that the share of calls that repeat the one before may rise")
    max_tool_errors: float = Field(0.02, ge=0, description="most that the share of invalid calls may rise")
    max_control_loss: float = Field(
        4.0, gt=1, description="most times the bare base's loss on tasks of the tenant's other instances"
    )


class ConsolidationSettings(_Section):
    recipe: Recipe = Recipe()
    holdout: float = Field(0.2, gt=0, lt=1, description="share of the tasks that is kept from training, for the gate")
    cohort: int = Field(16, ge=1, description="most consolidations in one trainer at once")
    trainers: int = Field(1, ge=1, description="most trainers at once, each with a base model of its own in memory")
    idle_s: float = Field(300.0, gt=0, description="a trainer that has had nothing to do for so long ends")
    per_tenant: int | None = Field(
        None, ge=1, description="most of one tenant's consolidations worked on at once in a stage; default: no bound"
    )
    workers: int = Field(1, ge=1, description="workers of a trainer; each batch is divided among them")
    sharded: bool = Field(False, description="whether a trainer's workers hold a part of the base each: ZeRO stage 3")
    lease_s: float = Field(60.0, gt=0, description="work whose holder is silent for so long is taken up again")
    checkpoint_s: float = Field(60.0, ge=0, description="least time between two checkpoints of a training run")
    attempts: int = Field(
        5, ge=2, description="a consolidation at which so many trainers died, without a new checkpoint, fails"
    )
    gate: GateSettings = GateSettings()


SynthesisStage = Literal["schema", "errors", "grade", "segment", "prune", "scrub", "credit", "duplicates", "pairs"]
ModelStage = Literal["judge", "hindsight", "distillation", "critique", "variants", "rules"]


class ModelSettings(_Section):
    """The language model that some stages of synthesis ask."""

    stages: tuple[ModelStage, ...] = Field((), description="of synthesis that ask a language model; default: none")
    endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="of OpenAI's protocol, http://host:port/v1; default: the base model itself, in the worker",
    )
    name: str | None = Field(None, description="of the model at the endpoint")
    api_key: SecretStr | None = Field(None, description="of the endpoint; best told by the environment")
    timeout_s: float = Field(60.0, gt=0, description="for one try of a request")
    attempts: int = Field(5, ge=1, description="tries of a request that was refused for the moment or broke off")
    deadline_s: float = Field(600.0, gt=0, description="for all requests of one batch together")
    concurrency: int = Field(8, ge=1, description="requests at the endpoint at once")

    @field_serializer("api_key", when_used="json-unless-none")
    def _whole_key(self, key: SecretStr) -> str:
        """Settings are told as JSON to the processes that use them. Printed or logged, they show no key."""
        return key.get_secret_value()


class SynthesisSettings(_Section):
    without: tuple[SynthesisStage, ...] = Field((), description="stages that are left out; default: none")
    model: ModelSettings = ModelSettings()


class PoolSettings(_Section):
    """Engines for adapters up to one rank: every slot of an engine is as large as its largest adapter."""

    max_lora_rank: int = Field(16, ge=1, description="largest rank served; every slot is allocated at this rank")
    slots_gib: float = Field(1.0, gt=0, description="of device memory for the adapters that one batch mixes")
    host_gib: float = Field(1.25, gt=0, description="of an engine's host memory for adapters")
    disk_gib: float = Field(4.0, gt=0, description="of a replica's disk for adapters")
    slots: int | None = Field(None, ge=1, description="adapters in one batch; default: as many as it will have and fit")
    host_adapters: int | None = Field(None, ge=1, description="adapters in host memory; default: what host_gib holds")
    disk_adapters: int | None = Field(
        None, ge=1, description="adapters on a replica's disk; default: as disk_gib holds"
    )
    replicas: int = Field(1, ge=0, description="engines; the least of them where max_replicas is more")
    max_replicas: int | None = Field(None, ge=1, description="most engines, as load wants; default: always replicas")

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if self.replicas == 0 and self.max_replicas is None:
            raise ValueError("replicas 0 needs a max_replicas, or there would never be any")
        return self


class ServeSettings(PoolSettings):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    pools: tuple[PoolSettings, ...] = Field((), description="further engines, for larger ranks")
    pinned: tuple[str, ...] = Field((), description="skills, tenant/instance, that are kept in engines' memory")
    max_model_len: int = Field(2048, ge=64, description="tokens of prompt and answer together")
    max_num_seqs: int = Field(16, ge=1, description="sequences in one batch, and most of one request")
    adapters: int = Field(1000, ge=1, description="about how many are asked for, with the popularity of Zipf's law")
    requests_per_minute: int | None = Field(None, ge=1, description="of a tenant that has no limit of its own")
    tokens_per_minute: int | None = Field(None, ge=1, description="read and generated, of such a tenant")
    requests_at_once: int | None = Field(
        None, ge=1, description="of a tenant; by default four for each place in a batch"
    )
    kv_cache_gib: float = Field(1.0, gt=0, description="of a CPU engine; a GPU engine takes what is free")

    @property
    def all_pools(self) -> tuple[PoolSettings, ...]:
        """This one and ``pools``, the smallest rank first."""
        return tuple(sorted((self, *self.pools), key=lambda pool: pool.max_lora_rank))

    @property
    def largest_rank(self) -> int:
        return self.all_pools[-1].max_lora_rank

    @property
    def most_engines(self) -> int:
        return sum(max(pool.replicas, pool.max_replicas or 0) for pool in self.all_pools)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="LOOPER_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        yaml_file="looper.yaml",
        hide_input_in_errors=True,
    )

    home: Path = Field(
        Path("~/.looper"),
        validate_default=True,
        description="state of this machine: defaults of the stores, caches, logs",
    )
    base: str = Field("smollm2-135m", description="base model: the bundled smollm2-135m, a folder, or a hub's name")
    store: StoreSettings = StoreSettings()
    catalog: CatalogSettings = CatalogSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    consolidation: ConsolidationSettings = ConsolidationSettings()
    serve: ServeSettings = ServeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)

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


def load_settings(**flags: Any) -> Settings:
    """The settings that are in force, ``flags`` on top. Raises InvalidInput naming the setting and the value."""
    try:
        return Settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        value = "***" if "api_key" in where else repr(first.get("input"))
        raise InvalidInput(f"setting {where} = {value}: {first['msg']}") from error
