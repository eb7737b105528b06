"""Add operators' keys, which belong to no tenant, and uploads in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
compatible_since = "0006"


def upgrade() -> None:
    """Let keys be without a tenant, and create the table of uploads. Earlier releases do not find the new rows."""
    with op.batch_alter_table("keys") as keys:  # SQLite cannot change a column, and gets a copy of the table
        keys.alter_column("tenant", existing_type=sa.String(63), nullable=True)
    is_operators = sa.text("tenant IS NULL AND revoked_at IS NULL")
    op.create_index(
        "uq_keys_operator_name", "keys", ["name"], unique=True, sqlite_where=is_operators, postgresql_where=is_operators
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), sa.ForeignKey("tenants.name", name="fk_uploads_tenant"), nullable=False),
        sa.Column("instance", sa.String(63), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("part_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_tenant", "uploads", ["tenant"])
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
