"""Add the queue's columns: trainer shape, priority, and the times when a consolidation started and ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, fill them for existing rows, and replace the index."""
    # Use plain ALTER TABLE. Alembic's batch mode rebuilds a table on SQLite, and that would drop a table that foreign
    # keys point to.
    op.add_column("consolidations", sa.Column("shape", sa.String(length=16), nullable=False, server_default="plain"))
    op.add_column("consolidations", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("consolidations", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("consolidations", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True))
    # A consolidation that has left the queue keeps its parent. The last change of an ended one is its end.
    op.execute(
        """
        UPDATE consolidations
        SET started_at = (
            SELECT min(events.at) FROM events
            WHERE events.consolidation = consolidations.id AND events.what = 'synthesising'
        )
        """
    )
    op.execute(
        """
        UPDATE consolidations SET started_at = updated_at
        WHERE started_at IS NULL AND state IN ('synthesising', 'training', 'evaluating')
        """
    )
    op.execute(
        """
        UPDATE consolidations SET ended_at = updated_at
        WHERE state IN ('published', 'rejected', 'failed', 'cancelled')
        """
    )
    op.drop_index("ix_consolidations_state_created_at", "consolidations")
    op.create_index(
        "ix_consolidations_unfinished",
        "consolidations",
        ["tenant", "instance", "created_at"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
