"""``looper ingest``"""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, table


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="files, or folders of files")],
    instance: Annotated[str, typer.Option(metavar="TENANT/INSTANCE", help="Whose trajectories these are.")],
    format: Annotated[str, typer.Option(help="A format's name; auto looks into each file.")] = "auto",
    json: Json = False,
) -> None:
    """Take trajectories in. The same file twice changes nothing; what cannot be kept is counted with its reason.

    Example: `looper ingest runs/monday.jsonl --instance acme/helpdesk`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings
    from looper.platform.trajectories.ingest import ingest as take_in

    name, settings = InstanceName.parse(instance), load_settings()
    report = take_in(paths, name, format, catalog=Catalog.open(settings), store=ObjectStore.open(settings))
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
        empty="no files there",
    )
