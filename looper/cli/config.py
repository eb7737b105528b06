"""``looper config``: shows the settings and their schema."""

import typer

from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Show the current settings, and which settings exist.", no_args_is_help=True)


@app.command()
def show(json: Json = False) -> None:
    """Print every setting with its value and the source of the value. Secrets are hidden.

    Example: `looper config show`
    """
    from looper.platform.settings import load_with_sources

    loaded = load_with_sources()
    rows = loaded.rows()
    if json:
        emit_json({"file": loaded.file, "settings": [row._asdict() for row in rows]})
        return
    typer.echo(f"settings file: {loaded.file or 'none'}")
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
