"""Catalogs of older releases, with rows in them, are migrated. Who may work with which schema."""

import hashlib
import re
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, insert, text

from looper.platform import catalog as package
from looper.platform.catalog import Catalog
from looper.platform.catalog import tables as t
from looper.platform.catalog.engine import OlderSchema
from looper.platform.catalog.schema import SchemaVersion, newest_schema
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.settings import Settings
from looper.platform.tenancy import authenticate

SUBMITTED, SYNTHESIS_STARTED, UPDATED = (datetime(2025, 1, 1, hour, tzinfo=UTC) for hour in (1, 2, 3))


def test_consolidations_of_the_first_schema_continue(catalog_settings: Settings) -> None:
    _create_first_schema(catalog_settings.catalog_url)
    with closing(Catalog.open(catalog_settings, older="migrate")) as catalog:
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
    with closing(Catalog.open(catalog_settings, older="migrate")) as catalog:
        key = authenticate(catalog, "looper_00_11")
        assert (key.tenant, key.name, key.scopes) == ("acme", "00", TENANT_SCOPES)


def test_an_older_schema_is_migrated_by_what_brings_a_cluster_up_and_by_nobody_else(catalog_settings: Settings) -> None:
    _create_schema(catalog_settings.catalog_url, "0006").dispose()
    with pytest.raises(InvalidInput, match="has schema 0006 of an older release"):
        Catalog.open(catalog_settings)
    Catalog.open(catalog_settings, older="migrate").close()
    with closing(Catalog.open(catalog_settings)) as catalog:
        assert catalog.read_schema() == newest_schema()


def test_a_catalog_of_a_release_that_knew_no_other_schema_is_taken_over(catalog_settings: Settings) -> None:
    _create_schema(catalog_settings.catalog_url, "head").dispose()
    with closing(Catalog.open(catalog_settings)) as catalog:
        assert catalog.read_schema() == newest_schema()


def test_older_code_goes_on_with_a_schema_that_was_only_expanded(catalog_settings: Settings) -> None:
    """A later release has expanded the schema, and another one contracts it."""
    Catalog.open(catalog_settings).close()
    mine = str(newest_schema().revision)
    _set_schema(catalog_settings.catalog_url, "9998", mine)
    for older in get_args(OlderSchema)[:2]:
        with closing(Catalog.open(catalog_settings, older=older)) as catalog:
            assert catalog.read_schema() == SchemaVersion("9998", mine)
    _set_schema(catalog_settings.catalog_url, "9999", "9998")
    for older in get_args(OlderSchema)[:2]:
        with pytest.raises(
            InvalidInput, match=rf"needs a release of schema 9998 or newer, and this one is of .*{mine}"
        ):
            Catalog.open(catalog_settings, older=older)


def test_releases_before_0010_find_what_they_expect(catalog_settings: Settings) -> None:
    """They look into this table alone, and refuse a revision that they do not know. Their newest one is 0006."""
    Catalog.open(catalog_settings).close()
    engine = _engine(catalog_settings.catalog_url)
    with engine.connect() as sql:
        assert sql.scalar(text("SELECT version_num FROM alembic_version")) == "0006"
    engine.dispose()


def test_each_migration_declares_which_code_may_go_on() -> None:
    revisions = list(ScriptDirectory.from_config(_alembic()).walk_revisions())
    declared = {each.revision: each.module.compatible_since for each in revisions if each.revision >= "0007"}
    assert all(re.fullmatch(r"\d{4}", revision) for revision in declared), "in order as texts"
    in_order = [declared[revision] for revision in sorted(declared)]
    assert in_order == sorted(in_order), "what was contracted stays so"
    assert all(oldest <= revision for revision, oldest in declared.items())


def _alembic() -> Config:
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(str(package.__file__)).parent / "migrations"))
    return alembic


def _engine(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def _create_schema(url: str, revision: str) -> Engine:
    """Create a schema as releases did that had one table for its version."""
    engine, alembic = _engine(url), _alembic()
    with engine.begin() as sql:
        alembic.attributes["connection"] = sql
        command.upgrade(alembic, revision)
        sql.execute(text("CREATE TABLE alembic_version AS SELECT * FROM schema_version"))
        sql.execute(text("DROP TABLE schema_version"))
    return engine


def _set_schema(url: str, revision: str, compatible_since: str) -> None:
    engine = _engine(url)
    with engine.begin() as sql:
        sql.execute(text("UPDATE schema_version SET version_num = :version"), {"version": revision})
        sql.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": compatible_since})
    engine.dispose()


def _create_first_schema(url: str) -> None:
    engine = _create_schema(url, "0001")
    with engine.begin() as sql:
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
