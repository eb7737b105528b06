"""``looper starts``: the adapters from which first trainings begin. It opens the object store of the settings."""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress, table

app = typer.Typer(
    help="Manage starts, on a machine of the cluster: adapters from which the first training of an instance begins.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the start, which a recipe chooses it by.")]


@app.command()
def add(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a plain LoRA adapter, as PEFT saves it.")],
    base: Annotated[
        str | None, typer.Option(help="Base model of the adapter. Default: the first of the settings.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a start for a base model, or replace the one of this name. All tenants may begin from it.

    A consolidation that has begun from the one before goes on with that.

    Example: `looper starts add tool-use ./tool-use-adapter`
    """
    requirements.check_machine("looper starts add")

    from looper.basemodel.prepare import prepare_base
    from looper.jobs.consolidation.adapters.start_folder import read_start_folder
    from looper.platform.adapters.base_revision import read_base_manifest
    from looper.platform.adapters.starts import add_start
    from looper.platform.domain.names import check_name
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_for_base

    check_name(name, "start")
    settings = load_for_base(base)
    with progress(transient=True) as live:
        live.add_task("base model", total=None, note=f"{settings.base}: preparing it")
        manifest = read_base_manifest(prepare_base(settings))
    files = read_start_folder(folder, settings.base, manifest, settings.serve.max_rank)
    start = add_start(ObjectStore.open(settings), name, files)
    if json:
        emit_json(start)
    else:
        typer.echo(f"start {name} of {start.base} is {start.digest}, of rank {start.rank}")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the starts of all base models.

    Example: `looper starts list`
    """
    from looper.platform.adapters.starts import list_starts
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    found = list_starts(ObjectStore.open(load_settings()))
    if json:
        emit_json(found)
        return
    table(
        ["start", "base", "base revision", "rank", "adapts", "digest"],
        [
            (
                start.name,
                start.base,
                start.base_revision[:12],
                start.rank,
                "all layers" if start.adapts_all else ", ".join(start.target_modules),
                start.digest[:12],
            )
            for start in found
        ],
        empty="no starts yet: looper starts add NAME FOLDER",
    )


@app.command()
def remove(
    name: Name,
    base: Annotated[
        str | None, typer.Option(help="Base model, as `looper starts list` has it. Default: the first of the settings.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete a start, and the ones that it replaced. Published versions that began from it stay.

    A consolidation that began from it and is still in training fails.

    Example: `looper starts remove tool-use`
    """
    from looper.platform.adapters.starts import remove_start
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings = load_settings()
    removed = remove_start(ObjectStore.open(settings), name, base or settings.base)
    if json:
        emit_json(removed)
    else:
        typer.echo(f"start {name} of {removed[0].base} was removed")
