"""A version: one published adapter of an instance, as the catalog records it."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.names import InstanceName
from looper.platform.domain.scores import GateVerdict


class Version(BaseModel):
    """One immutable adapter of an instance."""

    model_config = ConfigDict(frozen=True)

    digest: str
    """SHA-256 of the adapter's files, in lowercase hexadecimal. It identifies the version."""
    instance: InstanceName
    """Instance that the adapter was trained for."""
    base: str
    """Base model, as the settings name it."""
    base_revision: str
    """Digest of the base model's weights."""
    rank: int
    """LoRA rank."""
    parent: str | None
    """Digest of the version that training started from. None if it started from the base model."""
    consolidation: str
    """Id of the consolidation that made the version."""
    verdict: GateVerdict
    """Why the gate let the version pass, or left it undecided."""
    created_at: datetime
    """When the version was published."""
    revoked_at: datetime | None = None
    """When the version was revoked. A revoked version is no longer served. None: it is not revoked."""
