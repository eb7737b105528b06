"""Alembic's entry point; the connection comes from ``looper.platform.catalog.schema``."""

from alembic import context

from looper.platform.catalog.schema import VERSION_TABLE
from looper.platform.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
