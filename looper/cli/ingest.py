"""``looper ingest``: reads trajectory files into an instance."""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, progress, table


def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of files.")],
    instance: Annotated[str, typer.Option(metavar="TENANT/INSTANCE", help="Instance that the trajectories belong to.")],
    format: Annotated[str, typer.Option(help="Name of the trajectory format; auto detects it for each file.")] = "auto",
    json: Json = False,
) -> None:
    """Ingest trajectories. Ingesting a file again changes nothing. Rejected trajectories are counted by reason.

    A remote Looper gets the files. A large file is sent in parts, and the same command goes on where it stopped.

    Example: `looper ingest runs/monday.jsonl --instance acme/helpdesk`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name = InstanceName.parse(instance)
    control_plane = open_control_plane()
    with progress(transient=True) as live:
        line = live.add_task("ingesting", total=1.0, note="")
        report = control_plane.ingest(
            paths, name, format, lambda path, share: live.update(line, completed=share, note=path.name)
        )
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
