"""API keys: issuing, checking, expiry and revocation."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Conflict, NotFound, StoreUnavailable, Unauthorized
from looper.platform.domain.scopes import DEFAULT_SCOPES, Scope
from looper.platform.settings import load_settings
from looper.platform.tenancy import authenticate, issue_key, last_use


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        yield catalog


def test_a_key_authenticates_its_tenant(catalog: Catalog) -> None:
    key = authenticate(catalog, issue_key(catalog, "acme"))
    assert (key.tenant, key.name) == ("acme", key.id)


def test_the_secret_is_not_stored(catalog: Catalog, tmp_path: Path) -> None:
    secret = issue_key(catalog, "acme").rpartition("_")[2]
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.glob("catalog.sqlite*"))


def test_wrong_expired_and_revoked_keys_get_the_same_error(catalog: Catalog) -> None:
    good, other = issue_key(catalog, "acme"), issue_key(catalog, "acme")
    expired = issue_key(catalog, "acme", lifetime=timedelta(seconds=-1))
    revoked = issue_key(catalog, "acme")
    catalog.revoke_key(revoked.split("_")[1])
    swapped = f"looper_{good.split('_')[1]}_{other.split('_')[2]}"
    messages = set()
    for wrong in ["x", "looper_", "looper_x_y", "looper__", f"{good}0", good.upper(), swapped, expired, revoked]:
        with pytest.raises(Unauthorized) as error:
            authenticate(catalog, wrong)
        messages.add(str(error.value))
    assert len(messages) == 1
    with pytest.raises(Unauthorized, match="no API key was given"):
        authenticate(catalog, None)


def test_issuing_and_revoking_unknown_keys_fails(catalog: Catalog) -> None:
    with pytest.raises(NotFound, match="tenant nobody does not exist"):
        issue_key(catalog, "nobody")
    with pytest.raises(NotFound):
        catalog.revoke_key("nothing")


def test_keys_are_listed_and_revoked_by_name_or_id(catalog: Catalog) -> None:
    secret = issue_key(catalog, "acme", name="agent")
    issue_key(catalog, "acme", name="ci", scopes={Scope.SUBMIT, Scope.ADMIN})
    assert {key.name: key.scopes for key in catalog.list_keys("acme")} == {
        "agent": DEFAULT_SCOPES,
        "ci": {Scope.SUBMIT, Scope.ADMIN},
    }
    with pytest.raises(Conflict, match="tenant acme has a key agent already"):
        issue_key(catalog, "acme", name="agent")
    catalog.revoke_key("agent", tenant="acme")
    with pytest.raises(Unauthorized):
        authenticate(catalog, secret)
    with pytest.raises(NotFound, match="looper tenant keys TENANT"):
        catalog.revoke_key("agent", tenant="acme")
    rotated = authenticate(catalog, issue_key(catalog, "acme", name="agent"))
    catalog.revoke_key(rotated.id)
    assert [(key.name, key.revoked_at is None) for key in catalog.list_keys("acme")] == [
        ("ci", True),
        ("agent", False),
        ("agent", False),
    ]


def test_another_tenants_key_is_not_revoked_by_name_or_id(catalog: Catalog) -> None:
    catalog.create_tenant("rival")
    key = authenticate(catalog, issue_key(catalog, "rival", name="agent"))
    for name in ("agent", key.id):
        with pytest.raises(NotFound, match=f"key {name} does not exist or is revoked"):
            catalog.revoke_key(name, tenant="acme")
    assert catalog.get_key(key.id).revoked_at is None


def test_the_last_use_is_written_once_a_minute_in_another_thread(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, written, threads = authenticate(catalog, issue_key(catalog, "acme")), threading.Event(), []
    clock = [0.0]
    monkeypatch.setattr(last_use.time, "monotonic", lambda: clock[0])
    write = catalog.record_key_use

    def record_key_use(id: str) -> None:
        threads.append(threading.current_thread())
        write(id)
        written.set()

    monkeypatch.setattr(catalog, "record_key_use", record_key_use)
    recorder = last_use.LastUseRecorder(catalog)
    for clock[0] in (0.0, 1.0, 59.9):
        recorder.record(key.id)
    assert written.wait(30)
    first = catalog.get_key(key.id).last_used_at
    assert first is not None
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    # The next one is due here, but the catalog has one that is less than a minute old, perhaps from another gateway.
    written.clear()
    clock[0] = 60.0
    recorder.record(key.id)
    assert written.wait(30)
    assert catalog.get_key(key.id).last_used_at == first


def test_a_catalog_that_is_down_does_not_end_the_recorder(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on after an error, and the request that used the key knows nothing of it."""
    called: list[str] = []
    both = threading.Event()

    def fail(id: str) -> None:
        called.append(id)
        if len(called) == 2:
            both.set()
        raise StoreUnavailable("down")

    monkeypatch.setattr(catalog, "record_key_use", fail)
    recorder = last_use.LastUseRecorder(catalog)
    recorder.record("a")
    recorder.record("b")
    assert both.wait(30)
    assert called == ["a", "b"]
