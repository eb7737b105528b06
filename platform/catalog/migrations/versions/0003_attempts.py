"""Consolidations count the attempts at training them, so that one that kills its trainers fails in the end."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("consolidations", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
