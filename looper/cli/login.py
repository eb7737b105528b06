"""``looper login`` and ``logout``: which remote Looper the commands of this user work on."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json

if TYPE_CHECKING:
    from looper.cli.control_plane.address import RemoteAddress


def login(
    url: Annotated[str, typer.Argument(help="Address of the Looper, such as https://looper.example.com.")],
    json: Json = False,
) -> None:
    """Make commands work on a remote Looper. The API key is asked for, or read from standard input.

    The key is checked against the server and stored in login.json in the home folder, which only you can read.
    LOOPER_URL and LOOPER_KEY go before it.

    Example: `looper login https://looper.example.com`
    """
    import os

    from looper.cli.control_plane.address import URL_VARIABLE, check_key, check_url, save_address, warn_if_exposed
    from looper.platform.client import Client
    from looper.platform.settings import load_settings

    home, url = load_settings().home, check_url(url, "URL")
    warn_if_exposed(url)
    key = check_key(_read_key(url), "standard input")
    with Client(url, key) as client:
        found = client.key()
    file = save_address(home, url, key)
    if json:
        emit_json({"url": url, "file": str(file), "key": found})
        return
    owner = "an operator" if found.tenant is None else f"tenant {found.tenant}"
    typer.echo(f"logged in to {url} as {owner}, with key {found.name} for {','.join(found.scopes)}; stored in {file}")
    if os.environ.get(URL_VARIABLE):
        typer.echo(f"note: {URL_VARIABLE} is set and goes before it", err=True)


def logout() -> None:
    """Make commands work on this machine again, and delete the stored API key. The key itself stays valid.

    Example: `looper logout`
    """
    import os

    from looper.cli.control_plane.address import URL_VARIABLE, login_path
    from looper.platform.settings import load_settings

    file = login_path(load_settings().home)
    was_there = file.exists()
    file.unlink(missing_ok=True)
    typer.echo(f"logged out: {file} is deleted" if was_there else "you were not logged in")
    if os.environ.get(URL_VARIABLE):
        typer.echo(f"note: {URL_VARIABLE} is set, so commands still work on {os.environ[URL_VARIABLE]}", err=True)


def note_that_it_is_local(command: str) -> None:
    """Print one line on standard error if ``command`` works on this machine while others work on a remote Looper."""
    if address := _find_address_quietly():
        there = f"{address.url} (from {address.where})"
        typer.echo(f"note: `looper {command}` works on this machine, not on {there}", err=True)


def _find_address_quietly() -> "RemoteAddress | None":
    """Return the remote Looper, None if there is none or a mistake keeps it from being found: the command says that."""
    from looper.cli.control_plane.address import find_address
    from looper.platform.domain.errors import LooperError
    from looper.platform.settings import load_settings

    try:
        return find_address(load_settings().home)
    except LooperError:
        return None


def _read_key(url: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(f"API key for {url}", hide_input=True, err=True))
    return sys.stdin.readline()
