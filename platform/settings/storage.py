"""Settings of the catalog and of the object store, and the base class of all sections. ``models.py`` has the others."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class SettingsSection(BaseModel):
    """Base class of a section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(SettingsSection):
    """The object store: trajectories, examples, checkpoints, adapters."""

    url: str | None = Field(
        None, repr=False, description="Folder or s3://bucket/prefix. Default: the folder store in home."
    )
    endpoint_url: str | None = Field(None, description="Address of an S3 server that is not Amazon's.")
    timeout_s: float = Field(20.0, gt=0, description="Timeout of a connection and of each wait for the next bytes.")
    max_retries: int = Field(3, ge=0, description="Maximum retries of a request that failed on the network.")

    @field_validator("url")
    @classmethod
    def _make_absolute(cls, url: str | None) -> str | None:
        """Make a folder absolute, because workers have other working directories."""
        return str(Path(url).expanduser().resolve()) if url and "://" not in url else url


class CatalogSettings(SettingsSection):
    """The database of tenants, keys, consolidations, versions and channels."""

    url: str | None = Field(
        None,
        repr=False,
        description="SQLAlchemy URL of SQLite or PostgreSQL. Default: the file catalog.sqlite in home.",
    )
    timeout_s: float = Field(
        20.0, gt=0, description="Timeout of a connection, of a statement and of the wait for a lock."
    )
    outage_s: float = Field(
        60.0,
        gt=0,
        description="While the database is away, known keys and skills are served for this time. A revocation takes "
        "effect within this time, whatever happens.",
    )
