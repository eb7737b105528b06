"""``looper ingest``: reads trajectory files into an instance."""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, table


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of files.")],
    instance: Annotated[str, typer.Option(metavar="TENANT/INSTANCE", help="Instance that the trajectories belong to.")],
    format: Annotated[str, typer.Option(help="Name of the trajectory format; auto detects it for each file.")] = "auto",
    json: Json = False,
) -> None:
    """Ingest trajectories. Ingesting a file again changes nothing. Rejected trajectories are counted by reason.

    Example: `looper ingest runs/monday.jsonl --instance acme/helpdesk`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings
    from looper.platform.trajectories.ingest import ingest_paths

    name, settings = InstanceName.parse(instance), load_settings()
    report = ingest_paths(paths, name, format, catalog=Catalog.open(settings), store=ObjectStore.open(settings))
    if json:
        emit_json(report)
        return
    table(
        ["file", "format", "trajectories", "kept", "rejected", "reasons"],
        [
            (
                file.path,
                file.format,
                file.trajectories,
                file.kept,
                file.rejected,
                ", ".join(f"{reason} x{count}" for reason, count in file.reasons.items()) or None,
            )
            for file in report.files
        ],
        empty="the folder has no files",
    )
