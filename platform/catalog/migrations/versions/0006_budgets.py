"""Add the budgets of tenants, which several gateways share."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.String(63), sa.ForeignKey("tenants.name", name="fk_budgets_tenant"), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("level", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "unit", name="pk_budgets"),
    )
