"""Hosts whose clocks are wrong share one PostgreSQL, and its clock is the one that counts."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Unauthorized
from looper.platform.settings import Settings
from looper.platform.tenancy import authenticate, issue_key
from tests.platform.clocks import move_clock
from tests.platform.queue_harness import QueueHarness


@pytest.fixture
def queue(postgresql_settings: Settings) -> Iterator[QueueHarness]:
    with closing(Catalog.open(postgresql_settings)) as catalog:
        yield QueueHarness(catalog)


@pytest.mark.parametrize("seconds", [-90, 90])
def test_a_wrong_clock_takes_no_lease_over(
    queue: QueueHarness, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    (job,) = queue.submit("acme/desk")
    queue.claim("me")
    with monkeypatch.context() as patch:
        move_clock(patch, seconds)
        assert queue.claim("other") == []
        assert queue.catalog.heartbeat([job.id], "me", lease_s=60) == {job.id}
    assert queue.claim("other") == []
    queue.expire_leases("me")
    with monkeypatch.context() as patch:
        move_clock(patch, seconds)
        assert queue.claim("other") == ["acme/desk"]


@pytest.mark.parametrize("seconds", [-90, 90])
def test_a_wrong_clock_changes_no_order_and_no_expiry(
    queue: QueueHarness, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    queue.catalog.create_tenant("acme")
    short = issue_key(queue.catalog, "acme", lifetime=timedelta(seconds=60))
    ended = issue_key(queue.catalog, "acme", lifetime=timedelta(seconds=-1))
    (first,) = queue.submit("acme/one")
    with monkeypatch.context() as patch:
        move_clock(patch, seconds)
        (second,) = queue.submit("acme/two")
        assert authenticate(queue.catalog, short).tenant == "acme"
        with pytest.raises(Unauthorized):
            authenticate(queue.catalog, ended)
        moved = issue_key(queue.catalog, "acme", lifetime=timedelta(seconds=60))
    (third,) = queue.submit("acme/three")
    assert authenticate(queue.catalog, moved).tenant == "acme"
    created = [queue.catalog.get_consolidation(job.id).created_at for job in (first, second, third)]
    assert created == sorted(created)
