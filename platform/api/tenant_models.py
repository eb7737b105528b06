"""Request and response types of ``/api/v1`` for tenants, their keys, limits and audit trail, and for operators."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from looper.platform.api.models import ApiModel
from looper.platform.domain.scopes import DEFAULT_SCOPES, TENANT_SCOPES, Scope

if TYPE_CHECKING:  # the client has these models and no database
    from looper.platform.catalog import ApiKey, Event, Quota, TenantOverview
    from looper.platform.settings import ServeSettings

MAX_LIFETIME_S = 3650 * 86_400
"""Longest time until a key expires that can be asked for over HTTP, in seconds."""


class KeyInfo(ApiModel):
    """One API key. Its secret is shown when it is issued, and never again."""

    tenant: str | None = Field(description="Tenant that it belongs to. Null: it is an operator's")
    id: str = Field(description="Public part of the key, in its middle")
    name: str = Field(description="Name of the key: its id unless it was given one")
    scopes: list[Scope] = Field(description="What the key may be used for")
    created_at: datetime = Field(description="When it was issued")
    last_used_at: datetime | None = Field(description="When it was last used, to a minute or two. Null: never")
    expires_at: datetime | None = Field(description="From when on it is refused. Null: it does not expire")
    revoked_at: datetime | None = Field(description="When it was revoked. Null: it is not revoked")
    state: Literal["valid", "expired", "revoked"] = Field(description="Whether the key is accepted now")

    @classmethod
    def from_key(cls, key: "ApiKey") -> "KeyInfo":
        """Return the public view of a key.

        Args:
            key: The key.

        Returns:
            Everything but its hash.
        """
        expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
        return cls(
            scopes=[scope for scope in Scope if scope in key.scopes],
            state="revoked" if key.revoked_at else "expired" if expired else "valid",
            **key.model_dump(exclude={"secret_sha256", "scopes"}),
        )


class AuditInfo(ApiModel):
    """One change, and who made it."""

    id: int = Field(description="Ascending number")
    at: datetime = Field(description="When it happened")
    actor: str = Field(
        description="key:NAME/ID, operator:NAME/ID, cli:USER, local:USER or system:queue-worker; empty if it was not "
        "recorded"
    )
    instance: str | None = Field(description="tenant/instance. Null: it happened to the tenant itself")
    consolidation: str | None = Field(description="Id of the consolidation that it happened to")
    what: str = Field(description="What happened, in words")

    @classmethod
    def from_event(cls, event: "Event") -> "AuditInfo":
        """Return the public view of an event.

        Args:
            event: The event.

        Returns:
            All of it.
        """
        return cls(**event.model_dump())


class TenantLimits(ApiModel):
    """Rate limits of a tenant. Null: the limit of the cluster's settings applies."""

    requests_per_minute: int | None = Field(None, ge=1, le=2**31 - 1, description="Maximum requests per minute")
    tokens_per_minute: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Maximum prompt and generated tokens per minute"
    )


class EffectiveLimits(TenantLimits):
    """Rate limits of a tenant, and those of the cluster's settings, which apply where it has none of its own."""

    default: TenantLimits = Field(description="Limits of the cluster's settings. Null: there is no limit")

    @classmethod
    def of(cls, own: "Quota", serve: "ServeSettings") -> "EffectiveLimits":
        """Return the rate limits of a tenant as clients see them.

        Args:
            own: Limits of the tenant itself.
            serve: Settings of the cluster's endpoint.

        Returns:
            Both the tenant's own limits and those of the settings.
        """
        default = TenantLimits(requests_per_minute=serve.requests_per_minute, tokens_per_minute=serve.tokens_per_minute)
        return cls(**own.model_dump(), default=default)


class TenantInfo(ApiModel):
    """One tenant."""

    name: str = Field(description="Name of the tenant")
    instances: int = Field(description="Number of its instances")

    @classmethod
    def from_overview(cls, tenant: "TenantOverview") -> "TenantInfo":
        """Return the public view of a tenant.

        Args:
            tenant: What the catalog has about it.

        Returns:
            The same.
        """
        return cls(name=tenant.name, instances=tenant.instances)


class TenantRequest(ApiModel):
    """A tenant to create."""

    name: str = Field(max_length=63, description="Name of the tenant: a-z, 0-9, '-' and '_'")


class KeyRequest(ApiModel):
    """A key to issue for a tenant."""

    name: str | None = Field(None, max_length=63, description="Name to find the key by. Null: its id")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(TENANT_SCOPES))] = Field(
        sorted(DEFAULT_SCOPES), description="What the key may be used for"
    )
    lifetime_s: int | None = Field(
        None, ge=1, le=MAX_LIFETIME_S, description="Seconds until it expires. Null: it does not expire"
    )


class IssuedKey(ApiModel):
    """A new key. Only its hash is stored, so this response is the only one that has it."""

    tenant: str = Field(description="Tenant that it belongs to")
    key: str = Field(description="The key")
