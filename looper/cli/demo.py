"""``looper demo``"""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    examples: Annotated[Path, typer.Option(help="Trajectories, as TENANT/INSTANCE.jsonl.")] = Path("examples"),
    out: Annotated[Path, typer.Option(help="Folder for demo.json, demo.png and the demo's own state.")] = Path("demo"),
) -> None:
    """Run the whole loop on this machine: trajectories in, skills trained, gated, served and asked.

    Example: `looper demo --out demo`
    """
    from looper.benchmarks.demo.run import run_demo

    run_demo(examples, out)
