"""A catalog with rows in it, of each earlier form, opened by this version."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, insert

from looper.platform import catalog as package
from looper.platform.catalog import Catalog
from looper.platform.catalog import tables as t
from looper.platform.domain.consolidation import ConsolidationState, QueueStage, Recipe
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings

SUBMITTED, SYNTHESIS, TOUCHED = (datetime(2025, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3))


def test_consolidations_of_the_first_form_go_on(catalog_settings: Settings) -> None:
    _make_first_form(catalog_settings.catalog_url)
    with closing(Catalog.open(catalog_settings)) as catalog:
        jobs = {job.instance.instance: job for job in catalog.consolidations()}
        times = {name: (job.started_at, job.ended_at) for name, job in jobs.items()}
        assert times == {
            "queued": (None, None),
            "training": (SYNTHESIS, None),
            "evaluating": (TOUCHED, None),
            "published": (SYNTHESIS, TOUCHED),
            "cancelled": (None, TOUCHED),
        }
        assert all((job.priority, job.recipe, job.created_at) == (0, Recipe(), SUBMITTED) for job in jobs.values())

        (queued,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
        assert (queued.instance.instance, queued.parent) == ("queued", None)
        # The lease that its holder had is over; its parent is what it began with.
        (training,) = catalog.claim("me", QueueStage.TRAINING, limit=9, lease_s=60)
        assert (training.instance.instance, training.parent) == ("training", "p" * 64)
        catalog.cancel(training.id)
        assert [job.instance.instance for job in catalog.unfinished()] == ["evaluating", "queued"]
        catalog.add_batch(InstanceName("acme", "published"), "b2", source="x", trajectories=1)
        assert (
            catalog.submit(InstanceName("acme", "published"), base="b", recipe=Recipe()).state
            is ConsolidationState.QUEUED
        )


def _make_first_form(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(str(package.__file__)).parent / "migrations"))
    with engine.begin() as sql:
        alembic.attributes["connection"] = sql
        command.upgrade(alembic, "0001")
        sql.execute(insert(t.tenants).values(name="acme", created_at=SUBMITTED))
        for state, owner, seen_to_begin in (
            (ConsolidationState.QUEUED, None, False),
            (ConsolidationState.TRAINING, "dead", True),
            (ConsolidationState.EVALUATING, None, False),
            (ConsolidationState.PUBLISHED, None, True),
            (ConsolidationState.CANCELLED, None, False),
        ):
            of_instance = {"tenant": "acme", "instance": state}
            sql.execute(insert(t.instances).values(**of_instance, created_at=SUBMITTED))
            sql.execute(
                insert(t.consolidations).values(
                    id=state,
                    **of_instance,
                    state=state,
                    base="b",
                    recipe={},
                    batches=["b1"],
                    parent="p" * 64,
                    owner=owner,
                    lease_until=TOUCHED,
                    created_at=SUBMITTED,
                    updated_at=TOUCHED,
                )
            )
            if seen_to_begin:
                event = {"consolidation": state, "what": "synthesising", "at": SYNTHESIS}
                sql.execute(insert(t.events).values(**of_instance, **event))
    engine.dispose()
