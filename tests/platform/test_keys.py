"""API keys: issuing, checking, expiry and revocation."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import NotFound, Unauthorized
from looper.platform.settings import load_settings
from looper.platform.tenancy import authenticate, issue_key


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        yield catalog


def test_a_key_authenticates_its_tenant(catalog: Catalog) -> None:
    assert authenticate(catalog, issue_key(catalog, "acme")) == "acme"


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
