"""What the catalog returns beside the domain's own types."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.consolidation import TrainerShape


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Batch(_Record):
    """Trajectories that were ingested together: one Parquet object in the store."""

    id: str
    source: str
    trajectories: int
    created_at: datetime


class ApiKey(_Record):
    """A tenant's key as it is stored: without its secret, which nobody can read back."""

    id: str
    tenant: str
    secret_sha256: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Quota(_Record):
    """What a tenant may ask of the endpoint; None: as the settings say."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Target(_Record):
    """A version that may answer a request."""

    channel: str | None
    """None: it was asked for by its digest."""
    digest: str
    rank: int
    share: float
    """Of the requests for the name that was asked for."""


class Event(_Record):
    """Something that happened to a consolidation or a channel."""

    id: int
    at: datetime
    instance: str
    consolidation: str | None
    what: str


class TrainingDemand(_Record):
    """A trainer that is wanted: the base and shape that it must have, and how many consolidations wait for it."""

    base: str
    shape: TrainerShape
    waiting: int
