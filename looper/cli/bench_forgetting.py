"""``looper bench forgetting``: what instances forget, and how much an adapter holds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.benchmarks.forgetting.run import BenchmarkProgress


def forgetting(
    source: Annotated[
        str, typer.Option(help="A workplace of the gym with sessions, or a folder of tenants' trajectories.")
    ] = "harbor/dispatch",
    out: Annotated[
        Path, typer.Option(help="Folder for the results and adapters of every run, and for the report.")
    ] = Path("forgetting"),
    phase: Annotated[
        int,
        typer.Option(
            help="1: every strategy once. 2: the best ones with several learning rates and seeds. 3: steps and rank."
        ),
    ] = 1,
    sessions: Annotated[
        int,
        typer.Option(
            min=2,
            max=200,
            help="5: the sessions of the workplace. Another number: a generated stream of so many, without phases.",
        ),
    ] = 5,
    ceiling: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=14_400,
            help="Instead: how many of up to so many random rules adapters of rank 4, 16 and 64 hold. With "
            "SmolLM2-135M on two cores, 256 take about 40 minutes, and 1024 about three hours.",
        ),
    ] = None,
    sharing: Annotated[
        int,
        typer.Option(
            min=1, help="Number of these commands that run at the same time on this machine, with one output folder."
        ),
    ] = 1,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Run two strategies and two sessions only, or a stream with one epoch, or rules for two ranks, as a "
            "check.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Consolidate instances over several sessions with every strategy, and measure what they forget.

    Several of these commands may run on one folder at the same time; they divide the runs. On a CPU, one per core is
    fastest.

    Example: `looper bench forgetting --source harbor/dispatch --out forgetting --sharing 2 & looper bench forgetting
    --source harbor/dispatch --out forgetting --sharing 2`

    With --sessions 50, the default strategy and none learn fifty sessions of a generated stream, and the upper bound
    all of them at once. The report tells what is known at the end, the worst dip on the way, and what a session costs.

    With --ceiling 256, each rank learns 16 random rules at once, then 64, then 256, as long as it recalls 90 % of them,
    and then a number between. The report tells how many rules a rank holds, and the power law through those numbers.
    """
    requirements.check_machine("looper bench forgetting", "bench")

    from rich.console import Console

    from looper.basemodel.prepare import prepare_base
    from looper.benchmarks.forgetting.bench import bench, bench_stream
    from looper.benchmarks.forgetting.ceiling import RANKS, bench_ceiling
    from looper.benchmarks.forgetting.ceiling_report import CeilingReport, ceiling_table
    from looper.benchmarks.forgetting.looper_learner import LooperLearner
    from looper.benchmarks.forgetting.plan import SESSION_COUNT
    from looper.benchmarks.forgetting.report import ForgettingReport, to_table
    from looper.benchmarks.forgetting.stream_report import StreamReport, stream_table
    from looper.benchmarks.machine import describe_machine
    from looper.jobs.consolidation.model.device import set_thread_count
    from looper.jobs.consolidation.training.single_process_group import single_process_group
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as display, single_process_group():
        line = display.add_task("base model", total=None, note="")
        set_thread_count(sharing)
        learner = LooperLearner(prepare_base(settings), max(RANKS) if ceiling else settings.serve.max_rank)

        def notify(at: "BenchmarkProgress") -> None:
            name = f"{at.run_number} of {at.run_count}: {at.run.name}"
            note = f"{at.finished_rounds} of {at.round_count} rounds"
            display.update(line, description=name, completed=at.finished_rounds, total=at.round_count, note=note)

        machine = describe_machine()
        found: CeilingReport | StreamReport | ForgettingReport
        if ceiling:
            found = bench_ceiling(
                settings.base, learner, out, machine=machine, most=ceiling, quick=quick, notify=notify
            )
        elif sessions == SESSION_COUNT:
            found = bench(source, settings.base, learner, out, machine=machine, phase=phase, quick=quick, notify=notify)
        else:
            found = bench_stream(
                source, settings.base, learner, out, machine=machine, sessions=sessions, quick=quick, notify=notify
            )
    if json:
        emit_json(found)
    else:
        match found:
            case CeilingReport():
                table = ceiling_table(found)
            case StreamReport():
                table = stream_table(found)
            case ForgettingReport():
                table = to_table(found)
        Console(width=None if sys.stdout.isatty() else 200).print(table)
