"""Methods of the Python client for keys, limits and the audit trail of a tenant, and for operators."""

from collections.abc import Iterator, Set
from datetime import timedelta

from looper.platform.api.cluster_models import ClusterInfo
from looper.platform.api.tenant_models import (
    AuditInfo,
    EffectiveLimits,
    IssuedKey,
    KeyInfo,
    TenantInfo,
    TenantLimits,
)
from looper.platform.client.http_session import HttpSession
from looper.platform.domain.names import check_name
from looper.platform.domain.scopes import DEFAULT_SCOPES, Scope


class TenantMethods(HttpSession):
    """Keys, limits, audit trail, and the tenants themselves. ``Client`` has them."""

    def key(self) -> KeyInfo:
        """Return the API key of this client."""
        return self._get("/key", KeyInfo)

    def keys(self) -> list[KeyInfo]:
        """Return the tenant's API keys, those that are not revoked first."""
        return self._get("/keys", list[KeyInfo])

    def revoke_key(self, key: str) -> KeyInfo:
        """Revoke an API key of the tenant.

        Args:
            key: Its name or its id.

        Returns:
            The revoked key.
        """
        return self._call("POST", f"/keys/{check_name(key, 'key')}/revoke", KeyInfo)

    def limits(self) -> EffectiveLimits:
        """Return the tenant's own rate limits, and those of the cluster's settings."""
        return self._get("/limits", EffectiveLimits)

    def audit_trail(self, *, before: int | None = None, limit: int = 100) -> list[AuditInfo]:
        """Return who changed what, newest first.

        Args:
            before: Only entries whose id is lower: the last id of the page before.
            limit: Maximum length of the list, from 1 to 1000.

        Returns:
            One page of the audit trail.
        """
        params = {"limit": limit} | ({} if before is None else {"before": before})
        return self._call("GET", "/audit", list[AuditInfo], params=params)

    def tenants(self) -> Iterator[TenantInfo]:
        """Return all tenants, sorted by name. The key needs scope ``operator``."""
        return self._pages("/tenants", TenantInfo)

    def create_tenant(self, name: str) -> str:
        """Create a tenant. The key needs scope ``operator``.

        Args:
            name: Name of the tenant.

        Returns:
            Its first API key, which cannot be shown again.

        Raises:
            Conflict: The tenant exists already.
        """
        return self._call("POST", "/tenants", IssuedKey, json={"name": name}).key

    def issue_key(
        self,
        tenant: str,
        *,
        name: str | None = None,
        scopes: Set[Scope] = DEFAULT_SCOPES,
        lifetime: timedelta | None = None,
    ) -> str:
        """Issue an API key for a tenant. The key of this client needs scope ``operator``.

        Args:
            tenant: Tenant that the new key belongs to.
            name: Name by which it is found again. None: its id.
            scopes: What it may be used for.
            lifetime: Time until it expires. None: it does not expire.

        Returns:
            The key, which cannot be shown again.
        """
        lifetime_s = None if lifetime is None else round(lifetime.total_seconds())
        body = {"name": name, "scopes": sorted(scopes), "lifetime_s": lifetime_s}
        return self._call("POST", f"/tenants/{check_name(tenant, 'tenant')}/keys", IssuedKey, json=body).key

    def tenant_limits(self, tenant: str) -> EffectiveLimits:
        """Return the rate limits of a ``tenant``. The key needs scope ``operator``."""
        return self._get(f"/tenants/{check_name(tenant, 'tenant')}/limits", EffectiveLimits)

    def set_tenant_limits(self, tenant: str, limits: TenantLimits) -> EffectiveLimits:
        """Set the own rate limits of a tenant. The key needs scope ``operator``.

        Args:
            tenant: Name of the tenant.
            limits: The new limits, which replace all old ones.

        Returns:
            The limits that apply now.
        """
        path = f"/tenants/{check_name(tenant, 'tenant')}/limits"
        return self._call("PUT", path, EffectiveLimits, json=limits.model_dump())

    def cluster(self) -> ClusterInfo:
        """Return what runs where, and what waits for what. The key needs scope ``operator``."""
        return self._get("/cluster", ClusterInfo)
