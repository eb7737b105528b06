"""Records that the catalog returns and that are not domain types of their own."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator

from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.scopes import Scope, parse_scopes
from looper.platform.domain.version import Version
from looper.platform.trajectories.report import IngestReport

Row = TypeVar("Row")


@dataclass(frozen=True)
class Changes(Generic[Row]):
    """What has changed in the catalog, and when that was read."""

    at: datetime
    """Time of the reading, by the catalog's clock."""
    rows: frozenset[Row]
    """What has changed."""


class Revocation(NamedTuple):
    """A version or a key that is revoked."""

    kind: Literal["version", "key"]
    """What is revoked."""
    id: str
    """Digest of the version, or id of the key."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Batch(_Record):
    """Trajectories that were ingested together. They are one Parquet object in the object store."""

    id: str
    """Digest of the batch's content."""
    source: str
    """Path or name that the trajectories were read from."""
    trajectories: int
    """Number of trajectories."""
    created_at: datetime
    """When the batch was ingested."""


class ApiKey(_Record):
    """An API key as it is stored. The secret itself is not stored."""

    id: str
    """Public part of the key."""
    tenant: str | None
    """Tenant that the key belongs to. None: it is an operator's."""
    name: str
    """Name of the key, of which its owner has only one that is not revoked."""
    scopes: frozenset[Scope]
    """What the key may be used for."""
    secret_sha256: str
    """SHA-256 of the secret part."""
    created_at: datetime
    """When the key was issued."""
    last_used_at: datetime | None = None
    """When the key was last used, to a minute. None: never."""
    expires_at: datetime | None
    """From when on the key is refused. None: it does not expire."""
    revoked_at: datetime | None
    """When the key was revoked. None: it is not revoked."""

    @field_validator("scopes", mode="before")
    @classmethod
    def _from_column(cls, value: object) -> object:
        return parse_scopes(value) if isinstance(value, str) else value

    @property
    def actor(self) -> str:
        """Who acts with this key, as ``domain/actor.py`` says."""
        return f"{'operator' if self.tenant is None else 'key'}:{self.name}/{self.id}"

    @property
    def owner(self) -> str:
        """Whom the key belongs to, in words."""
        return "an operator" if self.tenant is None else f"tenant {self.tenant}"


class Quota(_Record):
    """Rate limits of one tenant. None: the default of the settings applies."""

    requests_per_minute: int | None = None
    """Maximum requests per minute."""
    tokens_per_minute: int | None = None
    """Maximum prompt and completion tokens per minute."""


class TenantOverview(_Record):
    """A tenant and how many instances it has."""

    name: str
    """Name of the tenant."""
    instances: int
    """Number of its instances."""


class Upload(_Record):
    """A file of trajectories that a client uploads in parts. The parts are in the object store."""

    id: str
    """Digest of what is uploaded where: a client that was interrupted finds the upload by it."""
    instance: InstanceName
    """Instance that the trajectories belong to."""
    name: str
    """Name of the file."""
    format: str
    """Name of the format; ``auto`` detects it."""
    sha256: str
    """SHA-256 of the file."""
    size: int
    """Size of the file, in bytes."""
    part_bytes: int
    """Size of each part but the last, in bytes."""
    created_at: datetime
    """When the upload began."""
    expires_at: datetime
    """From when on it is deleted, unless a part arrives."""
    report: IngestReport | None
    """What was ingested. None: the file has not been read yet."""

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return -(-self.size // self.part_bytes)

    def size_of(self, part: int) -> int:
        """Return the size of the part with the number ``part``, from 0, in bytes."""
        return min(self.part_bytes, self.size - part * self.part_bytes)


class RouteTarget(_Record):
    """A version that may answer a request."""

    channel: str | None
    """Channel that points to the version. None: the request named the version by its digest."""
    digest: str
    """Digest of the version."""
    rank: int
    """LoRA rank of the version."""
    base: str
    """Base model that the version was trained on, as the settings named it."""
    share: float
    """Share of the requests for the requested name, from 0 to 1."""


class Event(_Record):
    """One line of a tenant's audit trail, and of an instance's event log if it is about one."""

    id: int
    """Ascending number."""
    at: datetime
    """When it happened."""
    actor: str
    """Who did it, as ``domain/actor.py`` says. Empty for events from before that was recorded."""
    instance: str | None
    """Instance, as ``tenant/instance``. None: it happened to the tenant itself."""
    consolidation: str | None
    """Id of the consolidation it happened to. None: it did not happen to one."""
    what: str
    """What happened, in one line."""


class TrainingDemand(_Record):
    """Demand for trainers of one base model and shape."""

    base: str
    """Base model that the trainer must load."""
    shape: TrainerShape
    """Shape that the trainer must have."""
    waiting: int
    """Number of consolidations that need such a trainer."""


class InstanceOverview(_Record):
    """An instance and what was ingested for it."""

    instance: InstanceName
    """The instance."""
    batches: int
    """Number of ingested batches."""
    trajectories: int
    """Number of trajectories in all batches."""
    prod: str | None
    """Digest that channel ``prod`` points to, None if there is no such channel."""
    base: str | None
    """Base model that it is on. None: the first one of the cluster."""


class SkillSummary(_Record):
    """Channels and the newest versions of an instance."""

    instance: InstanceName
    """The instance."""
    channels: dict[str, str]
    """Digest that each channel points to, by channel name."""
    shares: dict[str, float]
    """Canary share of each channel that has one, from 0 to 1, by channel name."""
    versions: list[Version]
    """The newest versions, newest first."""
    version_count: int
    """Number of all versions."""
