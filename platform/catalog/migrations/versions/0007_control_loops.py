"""Add who leads the control loops, the trainers, why trainers could not start, and the state of the cluster."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
compatible_since = "0006"


def upgrade() -> None:
    """Create the tables, and the row that control loops compete for."""
    time = sa.DateTime(timezone=True)
    leaders = op.create_table(
        "leaders",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("since", time, nullable=False),
        sa.Column("lease_until", time, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leaders"),
    )
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    op.bulk_insert(leaders, [{"name": "control loop", "holder": "", "since": long_ago, "lease_until": long_ago}])
    op.create_table(
        "trainers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue_worker", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("shape", sa.String(16), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("suspects", sa.JSON(), nullable=True),
        sa.Column("is_stopping", sa.Boolean(), nullable=False),
        sa.Column("started_at", time, nullable=False),
        sa.Column("ready_at", time, nullable=True),
        sa.Column("seen_at", time, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_trainers"),
    )
    op.create_table(
        "trainer_failures",
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("shape", sa.String(16), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failed_at", time, nullable=False),
        sa.Column("retry_at", time, nullable=False),
        sa.PrimaryKeyConstraint("base", "shape", name="pk_trainer_failures"),
    )
    op.create_table(
        "cluster_reports",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("written_at", time, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cluster_reports"),
    )
