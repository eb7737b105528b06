"""Add canary shares of channels, revocation of versions, and rate limits of tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the index."""
    op.add_column("channels", sa.Column("share", sa.Float(), nullable=False, server_default="0"))
    op.add_column("versions", sa.Column("revoked_at", sa.DateTime(timezone=True)))
    op.create_index("ix_versions_revoked_at", "versions", ["revoked_at"])
    op.add_column("tenants", sa.Column("requests_per_minute", sa.Integer()))
    op.add_column("tenants", sa.Column("tokens_per_minute", sa.Integer()))
