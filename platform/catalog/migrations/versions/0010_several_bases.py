"""Add the base model of instances, and mark consolidations that move an instance to another one."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
compatible_since = "0006"


def upgrade() -> None:
    """Add two columns. Those who do not know them neither read nor write them."""
    op.add_column("instances", sa.Column("base", sa.Text()))
    op.add_column("consolidations", sa.Column("is_move", sa.Boolean(), nullable=False, server_default=sa.false()))
