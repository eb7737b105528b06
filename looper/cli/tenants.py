"""``looper tenant``"""

from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Tenants and their keys.", no_args_is_help=True)


@app.command()
def create(name: Annotated[str, typer.Argument(help="a-z, 0-9, '-' and '_'")], json: Json = False) -> None:
    """Make a tenant and print its first key. The key is stored hashed: this is the only time it can be seen.

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
    tenants = [{"name": name, "instances": len(catalog.instances(name))} for name in catalog.tenants()]
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
    name: Annotated[str, typer.Argument(help="an existing tenant")],
    days: Annotated[int | None, typer.Option(min=1, help="The key expires after so many days.")] = None,
    json: Json = False,
) -> None:
    """Issue one more key of a tenant.

    Example: `looper tenant key acme --days 30`
    """
    from datetime import timedelta

    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings
    from looper.platform.tenancy import issue_key

    lifetime = timedelta(days=days) if days else None
    _show_key(name, issue_key(Catalog.open(load_settings()), name, lifetime=lifetime), json)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="the key, or the id in its middle")]) -> None:
    """Revoke a key at once.

    Example: `looper tenant revoke 5f1c0a9b2d3e4f60`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    id = key.removeprefix("looper_").partition("_")[0]
    Catalog.open(load_settings()).revoke_key(id)
    typer.echo(f"key {id} is revoked")


@app.command()
def limit(
    name: Annotated[str, typer.Argument(help="an existing tenant")],
    requests: Annotated[int | None, typer.Option(min=0, help="A minute; 0: as the settings say.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=0, help="Read and generated a minute; 0: as the settings say.")
    ] = None,
    json: Json = False,
) -> None:
    """Limit what a tenant may ask of the endpoint, from the next request on; without options, show its limits.

    Whoever asks for more gets 429 with the seconds to wait. A tenant without a limit of its own has that of the
    settings, LOOPER_SERVE__REQUESTS_PER_MINUTE and LOOPER_SERVE__TOKENS_PER_MINUTE.

    Example: `looper tenant limit acme --requests 600 --tokens 100000`
    """
    from looper.platform.catalog import Catalog, Quota
    from looper.platform.settings import load_settings

    settings = load_settings()
    catalog = Catalog.open(settings)
    quota = catalog.quota(name)
    if requests is not None or tokens is not None:
        quota = Quota(
            requests_per_minute=quota.requests_per_minute if requests is None else requests or None,
            tokens_per_minute=quota.tokens_per_minute if tokens is None else tokens or None,
        )
        catalog.set_quota(name, quota)
    if json:
        emit_json(quota)
        return
    for what, own, default in (
        ("requests", quota.requests_per_minute, settings.serve.requests_per_minute),
        ("tokens", quota.tokens_per_minute, settings.serve.tokens_per_minute),
    ):
        typer.echo(f"{what} a minute: " + (f"{own:,}" if own else f"{default:,} (settings)" if default else "no limit"))


def _show_key(tenant: str, key: str, json: bool) -> None:
    if json:
        emit_json({"tenant": tenant, "key": key})
    else:
        typer.echo(f"tenant {tenant}, key (shown this once): {key}")
