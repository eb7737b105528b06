"""Changes of channels name the version that they expect. Concurrent ones leave no channel on a revoked version."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest

from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Conflict, NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.platform.test_adapters import FILES
from tests.platform.test_skills import VERDICT, publish_version, submit_and_claim

DESK = InstanceName("acme", "desk")


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        yield catalog


def test_a_change_that_expects_another_version_changes_nothing(catalog: Catalog) -> None:
    first, second = (publish_version(catalog, number * 64) for number in "12")
    message = f"prod points to {second} now, not to {first}"
    with pytest.raises(Conflict, match=message):
        catalog.set_channel(DESK, "prod", first, expected=first)
    with pytest.raises(Conflict, match=message):
        catalog.delete_channel(DESK, "prod", expected=first)
    with pytest.raises(Conflict, match=f"canary points to nothing now, not to {first}"):
        catalog.set_channel(DESK, "canary", second, expected=first)
    assert catalog.get_channels(DESK) == {"prod": second}
    catalog.set_channel(DESK, "prod", first, expected=second)
    catalog.delete_channel(DESK, "prod", expected=first)
    assert catalog.get_channels(DESK) == {}


def test_a_rollback_does_not_put_a_new_version_away(catalog: Catalog, catalog_settings: Settings) -> None:
    store = ObjectStore.open(catalog_settings)
    first, second = publish_version(catalog, adapters.publish(store, "acme", FILES)), publish_version(catalog, "2" * 64)
    with pytest.raises(Conflict, match=f"prod points to {second} now, not to {first}"):
        adapters.rollback(catalog, store, DESK, "prod", expected=first)
    with pytest.raises(Conflict, match=f"prod points to {'3' * 64} now, not to {second}"):
        # The new version is published while the adapter of the old one is read.
        adapters.rollback(catalog, store, DESK, "prod", lambda _: publish_version(catalog, "3" * 64) and None)
    assert catalog.get_channels(DESK) == {"prod": "3" * 64}
    with pytest.raises(NotFound):
        adapters.rollback(catalog, store, DESK, "none", expected=first)


def test_versions_that_are_revoked_at_once_leave_prod_on_a_valid_one(catalog: Catalog) -> None:
    digests = [publish_version(catalog, str(number) * 64) for number in range(9)]
    barrier = Barrier(8)

    def revoke(digest: str) -> None:
        barrier.wait(60)
        catalog.revoke_version(DESK, digest)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(revoke, digests[1:]))
    assert catalog.get_channels(DESK) == {"prod": digests[0]}
    assert catalog.resolve(ModelName(DESK)) == digests[0]


def test_a_version_that_is_published_during_a_revocation_is_kept(catalog: Catalog) -> None:
    """The only version is revoked, which deletes ``prod``, while another one is published. Both orders are right."""
    for round in range(4):
        instance = InstanceName("acme", f"desk{round}")
        old, new = publish_version(catalog, f"{round:0>64}", instance), f"{round:f>64}"
        job = submit_and_claim(catalog, instance, "batch")
        barrier = Barrier(2)

        def revoke(instance: InstanceName = instance, old: str = old, barrier: Barrier = barrier) -> None:
            barrier.wait(60)
            catalog.revoke_version(instance, old)

        def publish(job: str = job, new: str = new, barrier: Barrier = barrier) -> bool:
            barrier.wait(60)
            return catalog.publish(job, "me", digest=new, verdict=VERDICT, base_revision="r")

        with ThreadPoolExecutor(2) as pool:
            revoked, published = pool.submit(revoke), pool.submit(publish)
            revoked.result(60)
            # If the revocation was first, prod was gone, and the publication did not move it.
            assert catalog.get_channels(instance) == ({"prod": new} if published.result(60) else {})


def test_a_revoked_version_that_is_published_again_is_not_served(catalog: Catalog) -> None:
    first = publish_version(catalog, "1" * 64)
    catalog.revoke_version(DESK, first)
    job = submit_and_claim(catalog, DESK, "again")
    assert not catalog.publish(job, "me", digest=first, verdict=VERDICT, base_revision="r")
    assert catalog.get_channels(DESK) == {}
