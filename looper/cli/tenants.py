"""``looper tenant``: manages tenants, their API keys and their rate limits."""

from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, format_time, table

app = typer.Typer(help="Manage tenants, their API keys and their rate limits.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the tenant: a-z, 0-9, '-' and '_'.")], json: Json = False
) -> None:
    """Create a tenant and print its first API key. Only a hash of the key is stored, so it is shown this once.

    Example: `looper tenant create acme`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings
    from looper.platform.tenancy import issue_key

    catalog = Catalog.open(load_settings())
    catalog.create_tenant(name)
    _show_key(name, issue_key(catalog, name), json)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the tenants.

    Example: `looper tenant list`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    tenants = [{"name": name, "instances": len(catalog.list_instances(name))} for name in catalog.list_tenants()]
    if json:
        emit_json(tenants)
    else:
        table(
            ["tenant", "instances"],
            [(tenant["name"], tenant["instances"]) for tenant in tenants],
            empty="no tenants yet: looper tenant create NAME",
        )


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="An existing tenant.")],
    name: Annotated[
        str | None, typer.Option(help="Name to find the key by: where it is used. Default: its id.")
    ] = None,
    scopes: Annotated[
        str, typer.Option(help="What the key may do: some of infer, submit, admin, operator, with commas between.")
    ] = "infer,submit",
    days: Annotated[int | None, typer.Option(min=1, help="The key expires after this number of days.")] = None,
    json: Json = False,
) -> None:
    """Create another API key for a tenant.

    `infer` asks models. `submit` hands in trajectories, submits consolidations and reads. `admin` promotes, rolls back,
    revokes and drops, and manages keys. `operator` acts across tenants. A key without `--scopes` is one for a deployed
    agent: it asks models and hands in its trajectories, and cannot change what is served.

    Example: `looper tenant key acme --name ci --scopes submit,admin --days 30`
    """
    from datetime import timedelta

    from looper.platform.catalog import Catalog
    from looper.platform.domain.scopes import parse_scopes
    from looper.platform.settings import load_settings
    from looper.platform.tenancy import issue_key

    lifetime, granted = timedelta(days=days) if days else None, parse_scopes(scopes)
    catalog = Catalog.open(load_settings())
    _show_key(tenant, issue_key(catalog, tenant, name=name, scopes=granted, lifetime=lifetime), json)


@app.command()
def keys(
    tenant: Annotated[str, typer.Argument(help="An existing tenant.")],
    all_: Annotated[bool, typer.Option("--all", help="Also keys that have expired or are revoked.")] = False,
    json: Json = False,
) -> None:
    """List the API keys of a tenant, newest first. Their secrets cannot be shown.

    Example: `looper tenant keys acme`
    """
    from looper.platform.api.models import KeyInfo
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    found = [KeyInfo.from_key(key) for key in Catalog.open(load_settings()).list_keys(tenant)]
    found = [key for key in found if all_ or key.state == "valid"]
    if json:
        emit_json(found)
    else:
        table(
            ["key", "id", "scopes", "created", "last used", "expires", "state"],
            [
                (
                    key.name,
                    key.id,
                    ",".join(key.scopes),
                    format_time(key.created_at),
                    format_time(key.last_used_at),
                    format_time(key.expires_at),
                    key.state,
                )
                for key in found
            ],
            empty=f"no keys: looper tenant key {tenant}",
        )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="TENANT/NAME of the key, its id, or the key itself.")],
) -> None:
    """Revoke an API key. It stops working immediately.

    Example: `looper tenant revoke acme/ci`
    """
    from looper.platform import revocation
    from looper.platform.catalog import Catalog
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings = load_settings()
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    tenant, slash, name = key.partition("/")
    if slash:
        revoked = revocation.revoke_key(catalog, store, name, tenant=tenant)
    else:
        revoked = revocation.revoke_key(catalog, store, key.removeprefix("looper_").partition("_")[0])
    typer.echo(f"key {revoked.tenant}/{revoked.name} with id {revoked.id} is revoked")


@app.command()
def limit(
    name: Annotated[str, typer.Argument(help="An existing tenant.")],
    requests: Annotated[
        int | None, typer.Option(min=0, help="Requests per minute; 0 for the limit of the settings.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=0, help="Prompt and generated tokens per minute; 0 for the limit of the settings.")
    ] = None,
    json: Json = False,
) -> None:
    """Set the rate limits of a tenant, from its next request on. Without options, show them.

    A request above a limit gets status 429 and the number of seconds to wait. A tenant without a limit of its own has
    the limit of the settings, LOOPER_SERVE__REQUESTS_PER_MINUTE and LOOPER_SERVE__TOKENS_PER_MINUTE.

    Example: `looper tenant limit acme --requests 600 --tokens 100000`
    """
    from looper.platform.catalog import Catalog, Quota
    from looper.platform.settings import load_settings

    settings = load_settings()
    catalog = Catalog.open(settings)
    quota = catalog.get_quota(name)
    if requests is not None or tokens is not None:
        quota = Quota(
            requests_per_minute=quota.requests_per_minute if requests is None else requests or None,
            tokens_per_minute=quota.tokens_per_minute if tokens is None else tokens or None,
        )
        catalog.set_quota(name, quota)
    if json:
        emit_json(quota)
        return
    for unit, own, default in (
        ("requests", quota.requests_per_minute, settings.serve.requests_per_minute),
        ("tokens", quota.tokens_per_minute, settings.serve.tokens_per_minute),
    ):
        typer.echo(
            f"{unit} per minute: " + (f"{own:,}" if own else f"{default:,} (settings)" if default else "no limit")
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
    from looper.platform.api.models import AuditInfo
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    events = Catalog.open(load_settings()).list_audit_trail(tenant, limit=limit)
    if json:
        emit_json([AuditInfo.from_event(event) for event in events])
    else:
        table(
            ["when", "who", "instance", "what"],
            [(format_time(event.at), event.actor or None, event.instance, event.what) for event in events],
            empty="no changes yet",
        )


def _show_key(tenant: str, key: str, json: bool) -> None:
    if json:
        emit_json({"tenant": tenant, "key": key})
    else:
        typer.echo(f"tenant {tenant}, key (shown this once): {key}")
