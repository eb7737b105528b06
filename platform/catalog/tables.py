"""The tables of the catalog. Their history is in ``migrations/``; a test asserts that both agree."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite does not store time zones, so reading adds the time zone again."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return ``value`` in UTC for any ``dialect``."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return ``value`` with its time zone, also if the ``dialect`` is SQLite."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


NAME = String(63)
DIGEST = String(64)
ID = String(32)

tenants = Table(
    "tenants",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("created_at", UTCDateTime, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, ForeignKey("tenants.name"), index=True),  # null: an operator's key
    Column("name", NAME, nullable=False, server_default=""),
    Column("scopes", Text, nullable=False, server_default="infer,submit,admin"),
    Column("secret_sha256", DIGEST, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("last_used_at", UTCDateTime),
    Column("expires_at", UTCDateTime),
    Column("revoked_at", UTCDateTime),
    Index(
        "uq_keys_tenant_name",
        "tenant",
        "name",
        unique=True,
        sqlite_where=text("revoked_at IS NULL"),
        postgresql_where=text("revoked_at IS NULL"),
    ),
    # Each gateway polls for what was revoked or promoted recently. These indexes spare it from reading all rows.
    Index("ix_keys_revoked_at", "revoked_at"),
    Index(
        "uq_keys_operator_name",
        "name",
        unique=True,
        sqlite_where=text("tenant IS NULL AND revoked_at IS NULL"),
        postgresql_where=text("tenant IS NULL AND revoked_at IS NULL"),
    ),
)

instances = Table(
    "instances",
    metadata,
    Column("tenant", NAME, ForeignKey("tenants.name"), primary_key=True),
    Column("instance", NAME, primary_key=True),
    Column("base", Text),  # null: the first base model of the cluster
    Column("created_at", UTCDateTime, nullable=False),
)


def _instance_foreign_key() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant", "instance"], ["instances.tenant", "instances.instance"])


batches = Table(
    "batches",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("instance", NAME, primary_key=True),
    Column("id", ID, primary_key=True),
    Column("source", Text, nullable=False),
    Column("trajectories", Integer, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    _instance_foreign_key(),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, ForeignKey("tenants.name"), nullable=False, index=True),
    Column("instance", NAME, nullable=False),  # it exists once the file was read
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("sha256", DIGEST, nullable=False),
    Column("size", Integer, nullable=False),
    Column("part_bytes", Integer, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
    Column("report", JSON(none_as_null=True)),
)

consolidations = Table(
    "consolidations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("instance", NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("base", Text, nullable=False),
    Column("recipe", JSON, nullable=False),
    Column("batches", JSON, nullable=False),
    Column("shape", String(16), nullable=False, server_default="plain"),
    Column("is_move", Boolean, nullable=False, server_default=false()),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("parent", DIGEST),
    Column("owner", Text),
    Column("lease_until", UTCDateTime),
    Column("reason", Text),
    Column("verdict", JSON(none_as_null=True)),
    Column("digest", DIGEST),
    Column("progress", JSON(none_as_null=True)),
    Column("created_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    Column("ended_at", UTCDateTime),
    Column("updated_at", UTCDateTime, nullable=False),
    _instance_foreign_key(),
    Index("ix_consolidations_tenant_instance", "tenant", "instance"),
    # The queue reads only unfinished rows. A partial index stays small, however long the history is.
    Index(
        "ix_consolidations_unfinished",
        "tenant",
        "instance",
        "created_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

versions = Table(
    "versions",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("instance", NAME, nullable=False),
    Column("base", Text, nullable=False),
    Column("base_revision", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("parent", DIGEST),
    Column("consolidation", ID, ForeignKey("consolidations.id"), nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("revoked_at", UTCDateTime),
    _instance_foreign_key(),
    Index("ix_versions_tenant_instance", "tenant", "instance"),
    Index("ix_versions_revoked_at", "revoked_at"),
)

channels = Table(
    "channels",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("instance", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("digest", DIGEST, ForeignKey("versions.digest"), nullable=False),
    Column("share", Float, nullable=False, server_default="0"),
    Column("updated_at", UTCDateTime, nullable=False),
    _instance_foreign_key(),
    Index("ix_channels_updated_at", "updated_at"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UTCDateTime, nullable=False),
    Column("tenant", NAME, nullable=False),  # empty: it happened to an operator's key
    Column("instance", NAME, nullable=False),  # empty: it happened to the tenant itself
    Column("consolidation", ID),
    Column("actor", Text, nullable=False, server_default=""),  # empty: from a release that did not record it
    Column("what", Text, nullable=False),
    Index("ix_events_tenant_instance", "tenant", "instance"),
    Index("ix_events_tenant_id", "tenant", "id"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("tenant", NAME, ForeignKey("tenants.name"), primary_key=True),
    Column("unit", String(16), primary_key=True),
    Column("level", Float, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
)

leaders = Table(
    "leaders",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", Text, nullable=False),  # empty: nobody has led yet
    Column("since", UTCDateTime, nullable=False),
    Column("lease_until", UTCDateTime, nullable=False),
)

trainers = Table(
    "trainers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queue_worker", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("shape", String(16), nullable=False),
    Column("node", Text),
    Column("suspects", JSON(none_as_null=True)),
    Column("is_stopping", Boolean, nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("ready_at", UTCDateTime),
    Column("seen_at", UTCDateTime, nullable=False),
)

trainer_failures = Table(
    "trainer_failures",
    metadata,
    Column("base", Text, primary_key=True),
    Column("shape", String(16), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("failed_at", UTCDateTime, nullable=False),
    Column("retry_at", UTCDateTime, nullable=False),
)

cluster_reports = Table(
    "cluster_reports",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("report", JSON, nullable=False),
    Column("written_at", UTCDateTime, nullable=False),
)
