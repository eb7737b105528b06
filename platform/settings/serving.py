"""Settings of the endpoint and its engines. ``models.py`` has the others."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from looper.platform.settings.storage import SettingsSection

AcceleratorType = Annotated[str, Field(max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A type of GPUs as Ray names it. New ones appear with new GPUs, so there is no list."""


CPU_SEATS = 16
"""Maximum number of sequences in one batch of an engine on CPUs."""


class PoolSettings(SettingsSection):
    """Engines for adapters up to one rank. Every slot of an engine is as large as its largest adapter."""

    max_lora_rank: int = Field(
        16, ge=1, description="Maximum rank that is served. Every adapter slot is allocated at this rank."
    )
    loras_gib: float | None = Field(
        None,
        gt=0,
        description="Device memory for the adapter slots of an engine. Default: 1, and on a GPU a fifth of what the "
        "weights leave.",
    )
    cpu_loras_gib: float | None = Field(
        None,
        gt=0,
        description="Host memory of an engine for adapters. Default: 1.25, and on a machine with GPUs a quarter of "
        "what is free, divided by its engines.",
    )
    disk_loras_gib: float | None = Field(
        None,
        gt=0,
        description="Disk space of a replica for adapters. Default: 4, and on a machine with GPUs a quarter of what is "
        "free, divided by its engines.",
    )
    max_loras: int | None = Field(
        None,
        ge=1,
        description="Maximum adapters in one batch. Default: the expected number, as far as loras_gib has room.",
    )
    max_cpu_loras: int | None = Field(
        None, ge=1, description="Maximum adapters in host memory. Default: as many as fit into cpu_loras_gib."
    )
    max_disk_loras: int | None = Field(
        None, ge=1, description="Maximum adapters on a replica's disk. Default: as many as fit into disk_loras_gib."
    )
    replicas: int = Field(1, ge=0, description="Number of engines. With autoscaling (max_replicas), the minimum.")
    max_replicas: int | None = Field(
        None, ge=1, description="Maximum number of engines; the load decides. Default: no autoscaling."
    )

    accelerator_type: AcceleratorType | None = Field(
        None, description="Type of the GPUs of the engines, as Ray names it, such as A100. Default: any."
    )

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.replicas == 0 and self.max_replicas is None:
            raise ValueError("replicas 0 needs max_replicas, because otherwise no engine would ever start")
        return self


class BaseEngineSettings(PoolSettings):
    """The engines of one base model."""

    pools: tuple[PoolSettings, ...] = Field(
        (),
        description="More engines for larger ranks, each with the settings of this table from max_lora_rank to "
        "accelerator_type.",
    )
    max_model_len: int = Field(2048, ge=64, description="Maximum tokens of prompt and response together.")
    max_num_seqs: int | None = Field(
        None,
        ge=1,
        description="Maximum sequences in one batch, and in one request. Default: 16, and on a GPU as many as its "
        "memory has room for, from 16 to 256.",
    )
    expected_adapters: int = Field(
        1000, ge=1, description="Number of adapters that will receive requests, with popularity after Zipf's law."
    )
    tool_call_parser: str = Field(
        "auto",
        description="vLLM's parser for the base model's tool calls. auto: the one that reads back what its chat "
        "template writes. none: the base model calls no tools.",
    )
    reasoning_parser: str = Field(
        "auto", description="vLLM's parser for the base model's reasoning. auto and none as for tool_call_parser."
    )
    engine: dict[str, JsonValue] = Field(
        {},
        description="More arguments of vLLM's engines, by vLLM's names, such as {\"gpu_memory_utilization\": 0.8}. "
        "Those that Looper sets are refused.",
    )
    kv_cache_gib: float = Field(
        1.0, gt=0, description="KV cache of a CPU engine. A GPU engine uses the memory that is free."
    )

    @property
    def seats(self) -> int:
        """Maximum number of sequences in one batch."""
        return self.max_num_seqs or CPU_SEATS

    @property
    def all_pools(self) -> tuple[PoolSettings, ...]:
        """This pool and ``pools``, ordered by rank."""
        return tuple(sorted((self, *self.pools), key=lambda pool: pool.max_lora_rank))

    @property
    def max_rank(self) -> int:
        """Maximum rank that any pool serves."""
        return self.all_pools[-1].max_lora_rank

    @property
    def max_engines(self) -> int:
        """Maximum number of engines in all pools together."""
        return sum(max(pool.replicas, pool.max_replicas or 0) for pool in self.all_pools)


class ServeSettings(BaseEngineSettings):
    """The endpoint and its engines."""

    host: str = Field("127.0.0.1", description="Address on which the HTTP API listens.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP API. 0 takes a free one.")
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate of the HTTP API, and its chain. Default: no TLS."
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of tls_cert.")
    pinned: tuple[str, ...] = Field((), description="Skills (tenant/instance) that stay in the engines' host memory.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="Rate limit of a tenant that has none of its own. Default: no limit."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Rate limit on prompt and generated tokens of a tenant that has none of its own. "
        "Default: no limit.",
    )
    max_concurrent_requests: int | None = Field(
        None,
        ge=1,
        description="Maximum requests of one tenant that wait or run. A request counts once for each of its sequences "
        "(prompts times choices). Each gateway allows its even share. Default: four for each sequence of a batch, at "
        "each gateway.",
    )
    request_timeout_s: float = Field(
        600.0, gt=0, description="Maximum time from the arrival of a request to the last byte of its response."
    )
    gateways: int = Field(
        1, ge=1, le=64, description="Number of gateways. They share limits and canaries through the catalog."
    )
    graceful_shutdown_timeout_s: float = Field(
        90.0,
        ge=0,
        description="How long a gateway or an engine that stops, for an update or because its node ends, may go on "
        "with the requests that it has. Where a node gives less notice than that, engines stop at once.",
    )
    surge_percent: int = Field(
        20,
        ge=0,
        le=100,
        description="Engines more than usual while an update replaces them, in percent and rounded up. They need room. "
        "0: an update stops engines before it starts the new ones.",
    )

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _make_tls_absolute(cls, file: Path | None) -> Path | None:
        return file.expanduser().absolute() if file else None  # Ray's processes may run in another folder

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or none")
        return self
