"""Catalog operations on API keys. ``platform/tenancy`` issues and checks keys with them."""

from datetime import timedelta

from sqlalchemy import Connection, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import ApiKey
from looper.platform.domain.errors import Conflict, NotFound
from looper.platform.domain.names import check_name
from looper.platform.domain.scopes import format_scopes

LAST_USE_INTERVAL_S = 60.0
"""The time of a key's last use is written at most this often, in seconds."""

# Each request for inference runs it. To build a statement takes longer than to run it.
_KEY = select(t.keys).where(t.keys.c.id == bindparam("id"))


class KeyOperations(Database):
    """API keys."""

    def add_key(self, key: ApiKey) -> None:
        """Store ``key``.

        Raises:
            NotFound: The key's tenant does not exist.
            InvalidInput: The key's name is not valid.
            Conflict: Its owner has another key of this name that is not revoked.
        """
        check_name(key.name, "key")
        with self._write_transaction() as sql:
            if key.tenant is not None:
                rows.require_tenant(sql, key.tenant)
            try:
                sql.execute(insert(t.keys).values(**key.model_dump() | {"scopes": format_scopes(key.scopes)}))
            except IntegrityError as error:
                raise Conflict(
                    f"{key.owner} has a key {key.name} already: revoke it first, or choose another name"
                ) from error
            expiry = f", expires {key.expires_at:%F %T}" if key.expires_at else ""
            scopes = format_scopes(key.scopes)
            rows.insert_tenant_event(sql, key.tenant, f"key {key.name}/{key.id} was issued for {scopes}{expiry}")

    def get_key(self, id: str) -> ApiKey:
        """Return the key with this ``id``, also if it is expired or revoked.

        Raises:
            NotFound: There is no such key.
        """
        with self._read_transaction() as sql:
            row = sql.execute(_KEY, {"id": id}).one_or_none()
        if row is None:
            raise NotFound(f"key {id} does not exist")
        return ApiKey(**row._mapping)

    def list_keys(self, tenant: str | None, *, limit: int = 1000) -> list[ApiKey]:
        """List the keys of an owner, newest first, also those that are expired or revoked.

        Args:
            tenant: Name of the tenant. None: operators' keys.
            limit: Maximum length of the list. Keys that are not revoked come first.

        Returns:
            The keys.

        Raises:
            NotFound: The tenant does not exist.
        """
        c = t.keys.c
        query = select(t.keys).where(c.tenant.is_(None) if tenant is None else c.tenant == tenant)
        query = query.order_by(c.revoked_at.is_not(None), c.created_at.desc(), c.id).limit(limit)
        with self._read_transaction() as sql:
            if tenant is not None:
                rows.require_tenant(sql, tenant)
            return [ApiKey(**row._mapping) for row in sql.execute(query)]

    def find_valid_key(self, key: str, *, tenant: str | None = None) -> ApiKey:
        """Find a key that is not revoked.

        Args:
            key: Id of the key or, where ``tenant`` is given, also its name.
            tenant: Only a key of this tenant. None: of any.

        Returns:
            The key.

        Raises:
            NotFound: There is no such key, or it is revoked.
        """
        with self._read_transaction() as sql:
            return _find_valid_key(sql, key, tenant)

    def revoke_key(self, key: str, *, tenant: str | None = None) -> ApiKey:
        """Revoke a key. It is refused from the next request on.

        Args:
            key: Id of the key or, where ``tenant`` is given, also its name.
            tenant: Only a key of this tenant. None: of any.

        Returns:
            The revoked key.

        Raises:
            NotFound: There is no such key, or it is revoked already.
        """
        c = t.keys.c
        with self._write_transaction() as sql:
            id = _find_valid_key(sql, key, tenant).id
            sql.execute(update(t.keys).where(c.id == id).values(revoked_at=read_clock(sql)))
            revoked = ApiKey(**sql.execute(select(t.keys).where(c.id == id)).one()._mapping)
            rows.insert_tenant_event(sql, revoked.tenant, f"key {revoked.name}/{revoked.id} was revoked")
            return revoked

    def record_key_use(self, id: str) -> None:
        """Write that the key with this ``id`` is in use now, unless that was written in the last minute."""
        c = t.keys.c
        with self._write_transaction() as sql:
            now = read_clock(sql)
            is_due = or_(c.last_used_at.is_(None), c.last_used_at < now - timedelta(seconds=LAST_USE_INTERVAL_S))
            sql.execute(update(t.keys).where(c.id == id, is_due).values(last_used_at=now))


def _find_valid_key(sql: Connection, key: str, tenant: str | None) -> ApiKey:
    c = t.keys.c
    named = c.id == key if tenant is None else (c.tenant == tenant) & or_(c.id == key, c.name == key)
    # A key whose id was asked for goes before one that was given the other's id as its name.
    query = select(t.keys).where(named, c.revoked_at.is_(None)).order_by(c.id != key).limit(1)
    row = sql.execute(query).one_or_none()
    if row is None:
        raise rows.key_not_found(key)
    return ApiKey(**row._mapping)
