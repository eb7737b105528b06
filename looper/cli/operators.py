"""``looper operator``: operators' keys, which act for all tenants over HTTP. It opens the catalog of this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.keys import show_audit_trail, show_key, show_keys
from looper.cli.output import Json

if TYPE_CHECKING:
    from looper.platform.catalog import Catalog
    from looper.platform.settings import Settings

app = typer.Typer(
    help="Manage operators' keys, on a machine of the cluster. With one, `looper` works from anywhere for all tenants.",
    no_args_is_help=True,
)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name to find the key by: who or what uses it.")],
    scopes: Annotated[
        str, typer.Option(help="What the key may do: operator, metrics, or both with a comma between.")
    ] = "operator",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="The key expires after this number of days.")
    ] = None,
    json: Json = False,
) -> None:
    """Create an operator's key. It belongs to no tenant. Only a hash of it is stored, so it is shown this once.

    `operator` does for all tenants what commands on this machine do, but asks no models. `metrics` reads `/metrics`.

    Example: `looper operator key ann-laptop --days 90`
    """
    from datetime import timedelta

    from looper.platform.domain.scopes import parse_scopes
    from looper.platform.tenancy import issue_key

    granted, lifetime = parse_scopes(scopes), timedelta(days=days) if days else None
    catalog, _ = _open_catalog("looper operator key")
    issued = issue_key(catalog, None, name=name, scopes=granted, lifetime=lifetime)
    show_key(f"operator's key {name}", {"name": name}, issued, json)


@app.command()
def keys(
    all_: Annotated[bool, typer.Option("--all", help="Also keys that have expired or are revoked.")] = False,
    json: Json = False,
) -> None:
    """List the operators' keys, newest first. Their secrets cannot be shown.

    Example: `looper operator keys`
    """
    from looper.platform.api.tenant_models import KeyInfo

    catalog, _ = _open_catalog("looper operator keys")
    found = [KeyInfo.from_key(key) for key in catalog.list_keys(None)]
    show_keys(found, all_, json, empty="no operators' keys: looper operator key NAME")


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="Name of the key, its id, or the key itself.")]) -> None:
    """Revoke an operator's key. It stops working immediately.

    Example: `looper operator revoke ann-laptop`
    """
    from looper.platform import revocation
    from looper.platform.domain.errors import NotFound
    from looper.platform.objectstore import ObjectStore

    catalog, settings = _open_catalog("looper operator revoke")
    id = key.removeprefix("looper_").partition("_")[0]
    valid = (each for each in catalog.list_keys(None) if each.revoked_at is None)
    found = next((each for each in valid if key == each.name or id == each.id), None)
    if found is None:
        raise NotFound(f"operator's key {id} does not exist or is revoked already: looper operator keys")
    revoked = revocation.revoke_key(catalog, ObjectStore.open(settings), found.id)
    typer.echo(f"operator's key {revoked.name} with id {revoked.id} is revoked")


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, help="Number of changes to show, the newest.")] = 100,
    json: Json = False,
) -> None:
    """Show who issued and revoked operators' keys, newest first. What they did for a tenant is in the tenant's trail.

    Example: `looper operator audit`
    """
    from looper.platform.api.tenant_models import AuditInfo

    catalog, _ = _open_catalog("looper operator audit")
    show_audit_trail([AuditInfo.from_event(event) for event in catalog.list_audit_trail(None, limit=limit)], json)


def _open_catalog(command: str) -> "tuple[Catalog, Settings]":
    """Open the catalog of this machine. If other commands work on a remote Looper, that one is meant, so refuse."""
    from looper.cli.control_plane.address import find_address
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import InvalidInput
    from looper.platform.settings import load_settings

    settings = load_settings()
    if address := find_address(settings.home):
        raise InvalidInput(
            f"`{command}` opens the catalog itself: run it on a machine of {address.url}, where neither LOOPER_URL is "
            "set nor looper login was run"
        )
    return Catalog.open(settings), settings
