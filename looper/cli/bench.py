"""``looper bench``"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.benchmarks.forgetting.run import Progress

app = typer.Typer(help="Benchmarks; what was measured already is not measured again.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def forgetting(
    source: Annotated[
        str, typer.Option(help="A work place of the gym with sessions, or a folder of tenants' trajectories.")
    ] = "harbor/dispatch",
    out: Annotated[Path, typer.Option(help="Folder for every run's numbers and adapters, and for the report.")] = Path(
        "forgetting"
    ),
    phase: Annotated[
        int, typer.Option(help="1: every strategy once; 2: the leaders over rates and seeds; 3: steps and rank.")
    ] = 1,
    sharing: Annotated[
        int, typer.Option(min=1, help="How many of these commands, on one folder, share this machine's cores.")
    ] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two strategies and two sessions, to see that it works.")
    ] = False,
    json: Json = False,
) -> None:
    """Let instances live through sessions under every strategy, and measure what they forget.

    Several of these commands may run on one folder: each takes what no other is at. On a CPU, one per core is fastest.

    Example: `looper bench forgetting --source harbor/dispatch --out forgetting --sharing 2 & looper bench forgetting
    --source harbor/dispatch --out forgetting --sharing 2`
    """
    from rich.console import Console

    from looper.benchmarks.forgetting.bench import bench
    from looper.benchmarks.forgetting.report import to_table
    from looper.benchmarks.forgetting.trained import Trained
    from looper.benchmarks.machine import describe
    from looper.jobs.basemodel.prepare import prepare
    from looper.jobs.consolidation.alone import alone
    from looper.jobs.consolidation.device import use_cores
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as display, alone():
        line = display.add_task("base model", total=None, note="")
        use_cores(sharing)
        learner = Trained(prepare(settings.base, settings.models_dir), settings.serve.max_lora_rank)

        def notify(at: "Progress") -> None:
            name = f"{at.place} of {at.runs}: {at.run.name}"
            note = f"{at.done} of {at.lessons} sessions"
            display.update(line, description=name, completed=at.done, total=at.lessons, note=note)

        found = bench(source, settings.base, learner, out, machine=describe(), phase=phase, quick=quick, notify=notify)
    if json:
        emit_json(found)
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(to_table(found))


@app.command()
def consolidation(
    n: Annotated[int, typer.Option("--n", min=1, help="How many instances are consolidated.")] = 16,
    tasks: Annotated[int, typer.Option(min=8, help="How many tasks each has done; 24 are a day's.")] = 24,
    out: Annotated[Path, typer.Option(help="Folder for each variant's numbers and for the report.")] = Path(
        "consolidation"
    ),
    json: Json = False,
) -> None:
    """Do the same consolidations by one TorchTrainer each, in turn, side by side, and by Looper.

    Example: `looper bench consolidation --n 16 --out consolidation`
    """
    from rich.console import Console

    from looper.benchmarks.consolidation.bench import bench, to_table
    from looper.benchmarks.machine import describe
    from looper.jobs.basemodel.prepare import prepare
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as display:
        line = display.add_task("base model", total=None, note="")
        model_dir = prepare(settings.base, settings.models_dir)
        found = bench(
            n, tasks, out, settings.base, model_dir, describe(), lambda name: display.update(line, description=name)
        )
    if json:
        emit_json(found)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(to_table(found))
        console.print("   ".join(f"{name}: {value}" for name, value in found.ratios.items()))
