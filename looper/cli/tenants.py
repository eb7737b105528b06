"""``looper tenant``: manages tenants, their API keys and their rate limits."""

from typing import Annotated

import typer

from looper.cli.keys import show_audit_trail, show_key, show_keys
from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Manage tenants, their API keys and their rate limits.", no_args_is_help=True)


MAX_LIMIT = 2**31 - 1
"""Highest rate limit that the catalog can store."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the tenant: a-z, 0-9, '-' and '_'.")], json: Json = False
) -> None:
    """Create a tenant and print its first API key. Only a hash of the key is stored, so it is shown this once.

    Example: `looper tenant create acme`
    """
    from looper.cli.control_plane import open_control_plane

    show_key(f"tenant {name}", {"tenant": name}, open_control_plane().create_tenant(name), json)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the tenants.

    Example: `looper tenant list`
    """
    from looper.cli.control_plane import open_control_plane

    tenants = open_control_plane().list_tenants()
    if json:
        emit_json(tenants)
    else:
        table(
            ["tenant", "instances"],
            [(tenant.name, tenant.instances) for tenant in tenants],
            empty="no tenants yet: looper tenant create NAME",
        )


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="An existing tenant.")],
    name: Annotated[
        str | None, typer.Option(help="Name to find the key by: where it is used. Default: its id.")
    ] = None,
    scopes: Annotated[
        str, typer.Option(help="What the key may do: some of infer, submit, admin, with commas between.")
    ] = "infer,submit",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="The key expires after this number of days.")
    ] = None,
    json: Json = False,
) -> None:
    """Create another API key for a tenant.

    `infer` asks models. `submit` hands in trajectories, submits consolidations and reads. `admin` promotes, rolls back,
    revokes, drops and exports, and manages keys. A key without `--scopes` is one for a deployed agent: it asks models
    and hands in its trajectories, and cannot change what is served. `looper operator key` makes operators' keys.

    Example: `looper tenant key acme --name ci --scopes submit,admin --days 30`
    """
    from datetime import timedelta

    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import check_name
    from looper.platform.domain.scopes import parse_scopes

    check_name(tenant, "tenant")
    lifetime, granted = timedelta(days=days) if days else None, parse_scopes(scopes)
    issued = open_control_plane().issue_key(tenant, name=name, scopes=granted, lifetime=lifetime)
    show_key(f"tenant {tenant}", {"tenant": tenant}, issued, json)


@app.command()
def keys(
    tenant: Annotated[str, typer.Argument(help="An existing tenant.")],
    all_: Annotated[bool, typer.Option("--all", help="Also keys that have expired or are revoked.")] = False,
    json: Json = False,
) -> None:
    """List the API keys of a tenant, newest first. Their secrets cannot be shown.

    Example: `looper tenant keys acme`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import check_name

    check_name(tenant, "tenant")
    show_keys(open_control_plane().list_keys(tenant), all_, json, empty=f"no keys: looper tenant key {tenant}")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="TENANT/NAME of the key, its id, or the key itself.")],
) -> None:
    """Revoke an API key. It stops working immediately.

    Example: `looper tenant revoke acme/ci`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import check_name

    tenant, slash, name = key.partition("/")
    if slash:
        revoked = open_control_plane().revoke_key(check_name(name, "key"), check_name(tenant, "tenant"))
    else:
        id = key.removeprefix("looper_").partition("_")[0]
        revoked = open_control_plane().revoke_key(check_name(id, "key"), None)
    typer.echo(f"key {revoked.tenant}/{revoked.name} with id {revoked.id} is revoked")


@app.command()
def limit(
    name: Annotated[str, typer.Argument(help="An existing tenant.")],
    requests: Annotated[
        int | None, typer.Option(min=0, max=MAX_LIMIT, help="Requests per minute; 0 for the limit of the settings.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_LIMIT, help="Prompt and generated tokens per minute; 0 for the limit of the settings."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Set the rate limits of a tenant, from its next request on. Without options, show them.

    A request above a limit gets status 429 and the number of seconds to wait. A tenant without a limit of its own has
    the limit of the settings, LOOPER_SERVE__REQUESTS_PER_MINUTE and LOOPER_SERVE__TOKENS_PER_MINUTE.

    Example: `looper tenant limit acme --requests 600 --tokens 100000`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.api.tenant_models import TenantLimits
    from looper.platform.domain.names import check_name

    check_name(name, "tenant")
    control_plane = open_control_plane()
    limits = control_plane.get_limits(name)
    if requests is not None or tokens is not None:
        own = TenantLimits(
            requests_per_minute=limits.requests_per_minute if requests is None else requests or None,
            tokens_per_minute=limits.tokens_per_minute if tokens is None else tokens or None,
        )
        limits = control_plane.set_limits(name, own)
    if json:
        emit_json(TenantLimits(**limits.model_dump(exclude={"default"})))
        return
    for unit, value, default in (
        ("requests", limits.requests_per_minute, limits.default.requests_per_minute),
        ("tokens", limits.tokens_per_minute, limits.default.tokens_per_minute),
    ):
        typer.echo(
            f"{unit} per minute: " + (f"{value:,}" if value else f"{default:,} (settings)" if default else "no limit")
        )


@app.command()
def audit(
    tenant: Annotated[str, typer.Argument(help="An existing tenant.")],
    limit: Annotated[int, typer.Option(min=1, help="Number of changes to show, the newest.")] = 100,
    json: Json = False,
) -> None:
    """Show who changed what of a tenant: its keys, limits, trajectories, consolidations and channels. Newest first.

    Example: `looper tenant audit acme`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import check_name

    check_name(tenant, "tenant")
    show_audit_trail(open_control_plane().list_audit_trail(tenant, limit), json)
