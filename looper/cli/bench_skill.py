"""``looper bench skill``: compares a skill with what an agent could have in its prompt."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress


def skill(
    world: Annotated[
        list[str] | None,
        typer.Option(help="A world of the gym; repeat it for several. Default: all, or the first one with --quick."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model. Default: the one of the settings.")] = None,
    url: Annotated[
        str | None,
        typer.Option(help="OpenAI API of an endpoint that runs already, to ask instead of a Looper of its own."),
    ] = None,
    key: Annotated[str, typer.Option(help="With --url: API key of the endpoint.", envvar="OPENAI_API_KEY")] = "none",
    model: Annotated[str | None, typer.Option(help="With --url: name of the base model there.")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="One world, one seed, ten tasks, the main arms: a quarter of an hour on two cores."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for finished episodes, the report and the Looper's state.")] = Path(
        "skill"
    ),
    json: Json = False,
) -> None:
    """Compare a skill with what an agent could have in its prompt instead, and beside it, on the same tasks.

    Each world's agent has lived through the same recorded episodes in every arm. A skill is consolidated from them, and
    knowledge layers retrieve them or write memories of them. Without --url, a Looper of the benchmark's own is brought
    up on this machine. An endpoint is asked for skills under the names that the benchmark gives them, such as
    harbor/dispatch-0 for seed 0; arms without one are left out.

    Example: `looper bench skill --quick --out skill`
    """
    if url is None:
        requirements.check_machine("looper bench skill", "bench")

    from rich.console import Console

    from looper.benchmarks.skill.commands import bench_endpoint, bench_locally
    from looper.benchmarks.skill.report import to_table

    worlds = world or []
    if url is None:
        found = bench_locally(worlds, base, out, quick=quick)
    else:
        with progress() as display:
            line = display.add_task("endpoint", total=None, note="")
            found = bench_endpoint(
                url,
                key,
                model or base,
                worlds,
                out,
                quick=quick,
                notify=lambda text: display.update(line, description=text),
            )
    if json:
        emit_json(found)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(to_table(found))
        console.print("\n".join(f"{name}: {value:.3g}" for name, value in found.ratios.items()))
        console.print("\n".join(f"left out: {name}: {reason}" for name, reason in found.skipped.items()), markup=False)
