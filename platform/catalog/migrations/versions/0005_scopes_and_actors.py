"""Add names, scopes and last use of API keys, and the actor of each event."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns and the indexes. Existing keys keep what they could do, and get their id as their name."""
    op.add_column("keys", sa.Column("name", sa.String(length=63), nullable=False, server_default=""))
    op.add_column("keys", sa.Column("scopes", sa.Text(), nullable=False, server_default="infer,submit,admin"))
    op.add_column("keys", sa.Column("last_used_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE keys SET name = id")
    op.create_index(
        "uq_keys_tenant_name",
        "keys",
        ["tenant", "name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.add_column("events", sa.Column("actor", sa.Text(), nullable=False, server_default=""))
    op.create_index("ix_events_tenant_id", "events", ["tenant", "id"])
