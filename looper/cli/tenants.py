"""``looper tenant``: manages tenants, their API keys and their rate limits."""

from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, table

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
    name: Annotated[str, typer.Argument(help="An existing tenant.")],
    days: Annotated[int | None, typer.Option(min=1, help="The key expires after this number of days.")] = None,
    json: Json = False,
) -> None:
    """Create another API key for a tenant.

    Example: `looper tenant key acme --days 30`
    """
    from datetime import timedelta

    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings
    from looper.platform.tenancy import issue_key

    lifetime = timedelta(days=days) if days else None
    _show_key(name, issue_key(Catalog.open(load_settings()), name, lifetime=lifetime), json)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key, or the id in its middle.")]) -> None:
    """Revoke an API key. It stops working immediately.

    Example: `looper tenant revoke 5f1c0a9b2d3e4f60`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    id = key.removeprefix("looper_").partition("_")[0]
    Catalog.open(load_settings()).revoke_key(id)
    typer.echo(f"key {id} is revoked")


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


def _show_key(tenant: str, key: str, json: bool) -> None:
    if json:
        emit_json({"tenant": tenant, "key": key})
    else:
        typer.echo(f"tenant {tenant}, key (shown this once): {key}")
