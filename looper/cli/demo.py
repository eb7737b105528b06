"""``looper demo``: runs the whole loop on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.output import table


def demo(
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder with trajectories in TENANT/INSTANCE.jsonl. Default: examples that are part of Looper."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and the state of the demo.")] = Path("demo"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
) -> None:
    """Run the whole loop on this machine: ingest trajectories, train skills, test them in the gate, serve them.

    Example: `looper demo --out demo`
    """
    from importlib.resources import as_file, files

    with as_file(files("looper.examples")) as bundled:
        if dry_run:
            _show_plan(examples or bundled, out)
            return

        requirements.check_machine("looper demo", "bench")

        from looper.demo.run import run_demo

        run_demo(examples or bundled, out)


def _show_plan(examples: Path, out: Path) -> None:
    from looper.demo.plan import STAGES, count_trajectories, find_instances
    from looper.platform.settings import load_settings

    found = {instance: count_trajectories(file) for instance, file in find_instances(examples).items()}
    typer.echo(f"base model {load_settings().base}, {sum(found.values())} trajectories in {examples}\n")
    table(["instance", "trajectories"], list(found.items()), empty="")
    typer.echo("")
    table(["stage", "what it does"], list(STAGES.items()), empty="")
    typer.echo(f"\nresults would be written to {out}; nothing was started")
