"""``looper config``: shows the settings and their schema."""

import typer

from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Show the current settings, and which settings exist.", no_args_is_help=True)


@app.command()
def show(json: Json = False) -> None:
    """Print which Looper commands work on, and every setting of this machine with its value and source.

    Secrets are hidden. A remote Looper has settings of its own.

    Example: `looper config show`
    """
    from looper.cli.control_plane.address import find_address
    from looper.platform.settings import load_with_sources

    loaded = load_with_sources()
    rows, address = loaded.rows(), find_address(loaded.settings.home)
    if json:
        looper: dict[str, str | None] = {"url": None, "source": "local", "where": str(loaded.settings.home)}
        if address:
            looper = {"url": address.url, "source": address.source, "where": address.where}
        emit_json({"looper": looper, "file": loaded.file, "settings": [row._asdict() for row in rows]})
        return
    typer.echo(f"settings file: {loaded.file or 'none'}")
    typer.echo(
        f"commands work on: {address.url} (from {address.where})"
        if address
        else f"commands work on: this machine ({loaded.settings.home})"
    )
    table(
        ["setting", "value", "from"],
        [(row.name, None if row.value is None else _to_yaml(row.value), row.where or row.source) for row in rows],
        empty="",
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings file, for editors and checks.

    Example: `looper config schema > looper.schema.json`
    """
    from looper.platform.settings import Settings

    emit_json(Settings.model_json_schema())


def _to_yaml(value: object) -> str:
    """Return a value as the settings file would have it."""
    from pydantic_core import to_json

    return value if isinstance(value, str) else to_json(value).decode()
