"""Every change leaves an event with who made it, in the tenant's own audit trail and in no other."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from looper.platform.api.tenant_models import TenantLimits
from looper.platform.catalog import Catalog, Quota
from looper.platform.client import Client
from looper.platform.domain.actor import acting_as, local_user
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import TENANT_SCOPES, Scope
from looper.platform.settings import load_settings
from looper.platform.tenancy import authenticate, issue_key
from tests.platform.test_api import Platform, episodes, platform, publish

__all__ = ["episodes", "platform"]

DESK = InstanceName("acme", "desk")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog, acting_as("cli:ann"):
        catalog.create_tenant("acme")
        yield catalog


def trail(catalog: Catalog, tenant: str = "acme") -> list[tuple[str, str]]:
    """Return who did what, oldest first."""
    return [(event.actor, event.what) for event in reversed(catalog.list_audit_trail(tenant))]


def test_changes_of_the_tenant_itself_are_recorded(catalog: Catalog) -> None:
    with acting_as("cli:bob"):
        key = authenticate(catalog, issue_key(catalog, "acme", name="agent", scopes={Scope.INFER}))
        catalog.set_quota("acme", Quota(requests_per_minute=60))
    catalog.revoke_key(key.id)
    catalog.set_quota("acme", Quota())
    assert trail(catalog) == [
        ("cli:ann", "the tenant was created"),
        ("cli:bob", f"key agent/{key.id} was issued for infer"),
        ("cli:bob", "limits: requests_per_minute 60"),
        ("cli:ann", f"key agent/{key.id} was revoked"),
        ("cli:ann", "limits: those of the settings"),
    ]


def test_a_change_that_failed_leaves_no_event(catalog: Catalog) -> None:
    before = trail(catalog)
    for change in (
        lambda: catalog.create_tenant("acme"),
        lambda: catalog.revoke_key("nothing"),
        lambda: catalog.set_quota("nobody", Quota()),
        lambda: catalog.ensure_instance(InstanceName("nobody", "desk")),
        lambda: catalog.submit(DESK, base="b", recipe=Recipe()),
    ):
        with pytest.raises(Exception, match="exist"):
            change()
    assert trail(catalog) == before


def test_every_change_over_http_names_the_key(platform: Platform, episodes: Path) -> None:
    catalog = platform.catalog
    owner = issue_key(catalog, "acme", name="owner", scopes=TENANT_SCOPES)
    agent = issue_key(catalog, "acme", name="agent")
    as_owner, as_agent = (f"key:{name}/{key.split('_')[1]}" for name, key in (("owner", owner), ("agent", agent)))
    start = len(trail(catalog))
    with Client(platform.url, agent) as client:
        client.ingest("desk", episodes)
        (job,) = client.consolidate(["desk"])
        client.cancel(job.id)
        (job,) = client.consolidate(["desk"])
    digest = publish(platform, DESK, job.id)
    with Client(platform.url, owner) as client:
        client.promote("desk", digest, channel="canary", share=0.5)
        client.drop("desk", "canary")
        client.revoke("desk", digest)
        client.revoke_key("agent")
        assert [(entry.actor, entry.what) for entry in reversed(client.audit_trail())] == trail(catalog)
    assert [
        (actor, what.replace(digest, "DIGEST").split(" as batch")[0]) for actor, what in trail(catalog)[start:]
    ] == [
        (as_agent, "the instance was created"),
        (as_agent, "ingested 1 trajectories"),
        (as_agent, "queued with 1 batches"),
        (as_agent, "cancelled"),
        (as_agent, "queued with 1 batches"),
        ("system:queue-worker", "published DIGEST"),
        ("system:queue-worker", "prod -> DIGEST"),
        (as_owner, "canary -> DIGEST for 50%"),
        (as_owner, "canary is deleted"),
        (as_owner, "revoked DIGEST"),
        (as_owner, "prod -> nothing"),
        (as_owner, f"key {as_agent.removeprefix('key:')} was revoked"),
    ]


def test_a_tenants_trail_has_nothing_of_others_and_comes_in_pages(platform: Platform) -> None:
    platform.catalog.ensure_instance(InstanceName("rival", "secret-project"))
    with platform.client("acme") as client:
        assert "secret-project" not in str(client.audit_trail())
        whole = client.audit_trail()
        pages = [client.audit_trail(limit=1)]
        while pages[-1]:
            pages.append(client.audit_trail(limit=1, before=pages[-1][-1].id))
        assert [entry for page in pages for entry in page] == whole
        assert len(whole) == 2


def test_an_operator_sees_all_tenants_and_sets_their_limits(platform: Platform) -> None:
    key = issue_key(platform.catalog, None, name="ops", scopes={Scope.OPERATOR})
    with Client(platform.url, key) as client:
        assert [tenant.name for tenant in client.tenants()] == ["acme", "rival"]
        client.set_tenant_limits("acme", TenantLimits(tokens_per_minute=1000))
        assert client.tenant_limits("acme").tokens_per_minute == 1000
        with pytest.raises(NotFound, match="tenant nobody does not exist"):
            client.set_tenant_limits("nobody", TenantLimits())
    with platform.client("acme") as client:
        assert client.limits().tokens_per_minute == 1000
        entry = next(entry for entry in client.audit_trail() if entry.what.startswith("limits"))
        assert (entry.actor, entry.what) == (f"operator:ops/{key.split('_')[1]}", "limits: tokens_per_minute 1000")


def test_a_program_on_the_machine_is_named_by_its_user(tmp_path: Path) -> None:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        assert trail(catalog) == [(f"local:{local_user()}", "the tenant was created")]
