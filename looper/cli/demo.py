"""``looper demo``"""

from pathlib import Path
from typing import Annotated

import typer

from looper.cli import needs
from looper.cli.output import table


def demo(
    examples: Annotated[
        Path | None, typer.Option(help="Trajectories, as TENANT/INSTANCE.jsonl; default: those that Looper brings.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and the demo's own state.")] = Path("demo"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and start nothing.")] = False,
) -> None:
    """Run the whole loop on this machine: trajectories in, skills trained, gated, served and asked.

    Example: `looper demo --out demo`
    """
    from importlib.resources import as_file, files

    with as_file(files("looper.examples")) as bundled:
        if dry_run:
            _show_plan(examples or bundled, out)
            return

        needs.to_run("looper demo", "bench")

        from looper.demo.run import run_demo

        run_demo(examples or bundled, out)


def _show_plan(examples: Path, out: Path) -> None:
    from looper.demo.plan import STAGES, instances_in, trajectories_in
    from looper.platform.settings import load_settings

    found = {instance: trajectories_in(file) for instance, file in instances_in(examples).items()}
    typer.echo(f"base model {load_settings().base}, {sum(found.values())} trajectories in {examples}\n")
    table(["instance", "trajectories"], list(found.items()), empty="")
    typer.echo("")
    table(["stage", "what it does"], list(STAGES.items()), empty="")
    typer.echo(f"\nresults would be in {out}; nothing was started")
