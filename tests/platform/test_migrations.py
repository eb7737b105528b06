"""Catalogs of older releases, with rows in them, are migrated when this release opens them."""

import hashlib
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, insert

from looper.platform import catalog as package
from looper.platform.catalog import Catalog
from looper.platform.catalog import tables as t
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings
from looper.platform.tenancy import authenticate

SUBMITTED, SYNTHESIS_STARTED, UPDATED = (datetime(2025, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3))


def test_consolidations_of_the_first_schema_continue(catalog_settings: Settings) -> None:
    _create_first_schema(catalog_settings.catalog_url)
    with closing(Catalog.open(catalog_settings)) as catalog:
        jobs = {job.instance.instance: job for job in catalog.list_consolidations()}
        times = {name: (job.started_at, job.ended_at) for name, job in jobs.items()}
        assert times == {
            "queued": (None, None),
            "training": (SYNTHESIS_STARTED, None),
            "evaluating": (UPDATED, None),
            "published": (SYNTHESIS_STARTED, UPDATED),
            "cancelled": (None, UPDATED),
        }
        assert all((job.priority, job.recipe, job.created_at) == (0, Recipe(), SUBMITTED) for job in jobs.values())

        (queued,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
        assert (queued.instance.instance, queued.parent) == ("queued", None)
        # The lease of the old owner has expired. The parent stays the one that training started from.
        (training,) = catalog.claim("me", QueueStage.TRAINING, limit=9, lease_s=60)
        assert (training.instance.instance, training.parent) == ("training", "p" * 64)
        catalog.cancel(training.id)
        assert [job.instance.instance for job in catalog.list_unfinished()] == ["evaluating", "queued"]
        catalog.add_batch(InstanceName("acme", "published"), "b2", source="x", trajectories=1)
        assert (
            catalog.submit(InstanceName("acme", "published"), base="b", recipe=Recipe()).state
            is ConsolidationState.QUEUED
        )


def test_keys_of_the_first_schema_may_do_what_they_could(catalog_settings: Settings) -> None:
    _create_first_schema(catalog_settings.catalog_url)
    with closing(Catalog.open(catalog_settings)) as catalog:
        key = authenticate(catalog, "looper_00_11")
        assert (key.tenant, key.name, key.scopes) == ("acme", "00", TENANT_SCOPES)


def _create_first_schema(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(str(package.__file__)).parent / "migrations"))
    with engine.begin() as sql:
        alembic.attributes["connection"] = sql
        command.upgrade(alembic, "0001")
        sql.execute(insert(t.tenants).values(name="acme", created_at=SUBMITTED))
        hash = hashlib.sha256(b"11").hexdigest()
        sql.execute(insert(t.keys).values(id="00", tenant="acme", secret_sha256=hash, created_at=SUBMITTED))
        for state, owner, has_started in (
            (ConsolidationState.QUEUED, None, False),
            (ConsolidationState.TRAINING, "dead", True),
            (ConsolidationState.EVALUATING, None, False),
            (ConsolidationState.PUBLISHED, None, True),
            (ConsolidationState.CANCELLED, None, False),
        ):
            instance_columns = {"tenant": "acme", "instance": state}
            sql.execute(insert(t.instances).values(**instance_columns, created_at=SUBMITTED))
            sql.execute(
                insert(t.consolidations).values(
                    id=state,
                    **instance_columns,
                    state=state,
                    base="b",
                    recipe={},
                    batches=["b1"],
                    parent="p" * 64,
                    owner=owner,
                    lease_until=UPDATED,
                    created_at=SUBMITTED,
                    updated_at=UPDATED,
                )
            )
            if has_started:
                event = {"consolidation": state, "what": "synthesising", "at": SYNTHESIS_STARTED}
                sql.execute(insert(t.events).values(**instance_columns, **event))
    engine.dispose()
