"""Count training attempts, so that a consolidation that crashes its trainers fails after some attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("consolidations", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
