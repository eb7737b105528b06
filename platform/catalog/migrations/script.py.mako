"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# That of the migration before, if this one only expands the schema. If older code cannot go on with it: the first
# revision whose code can. See looper/platform/catalog/schema.py.
compatible_since = "0006"


def upgrade() -> None:
    """${message}"""
    ${upgrades if upgrades else "pass"}
