"""Add the indexes of what gateways poll for: promotions and revoked keys."""

from alembic import op

revision = "0008"
down_revision = "0007"
compatible_since = "0006"


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("ix_channels_updated_at", "channels", ["updated_at"])
    op.create_index("ix_keys_revoked_at", "keys", ["revoked_at"])
