"""``looper config``"""

import typer

from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Settings: what is in force, and what can be set.", no_args_is_help=True)


@app.command()
def show(json: Json = False) -> None:
    """Print every setting with its value and where that came from. Secrets are hidden.

    Example: `looper config show`
    """
    from looper.platform.settings import load

    loaded = load()
    rows = loaded.shown()
    if json:
        emit_json({"file": loaded.file, "settings": [row._asdict() for row in rows]})
        return
    typer.echo(f"settings file: {loaded.file or 'none'}")
    table(
        ["setting", "value", "from"],
        [(row.name, None if row.value is None else _written(row.value), row.where or row.source) for row in rows],
        empty="",
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings file, for editors and checks.

    Example: `looper config schema > looper.schema.json`
    """
    from looper.platform.settings import Settings

    emit_json(Settings.model_json_schema())


def _written(value: object) -> str:
    """As it would be written in the file."""
    from pydantic_core import to_json

    return value if isinstance(value, str) else to_json(value).decode()
