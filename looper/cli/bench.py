"""``looper bench``"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import needs
from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.benchmarks.forgetting.run import BenchmarkProgress

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
    needs.to_run("looper bench forgetting", "bench")

    from rich.console import Console

    from looper.benchmarks.forgetting.bench import bench
    from looper.benchmarks.forgetting.looper_learner import LooperLearner
    from looper.benchmarks.forgetting.report import to_table
    from looper.benchmarks.machine import describe
    from looper.jobs.basemodel.prepare import prepare
    from looper.jobs.consolidation.model.device import use_cores
    from looper.jobs.consolidation.training.single_process_group import single_process_group
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as display, single_process_group():
        line = display.add_task("base model", total=None, note="")
        use_cores(sharing)
        learner = LooperLearner(prepare(settings.base, settings.models_dir), settings.serve.largest_rank)

        def notify(at: "BenchmarkProgress") -> None:
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
    needs.to_run("looper bench consolidation", "bench")

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


@app.command()
def synthesis(
    trajectories: Annotated[
        int, typer.Option(min=400, help="Of the largest load; the smallest is a hundredth of it.")
    ] = 100_000,
    out: Annotated[
        Path, typer.Option(help="Folder for the trajectories, each variant's numbers and the report.")
    ] = Path("synthesis"),
    json: Json = False,
) -> None:
    """Put the gym's trajectories through the stages in a plain loop, in datasets.map, and by Looper on 1 and 2 workers.

    Example: `looper bench synthesis --out synthesis`
    """
    needs.to_run("looper bench synthesis", "bench")

    from rich.console import Console

    from looper.benchmarks.machine import describe
    from looper.benchmarks.synthesis.bench import bench, to_table

    with progress() as display:
        line = display.add_task("trajectories", total=None, note="")
        found = bench(trajectories, out, describe(), lambda name: display.update(line, description=name))
    if json:
        emit_json(found)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(to_table(found))
        console.print("\n".join(f"{name}: {value}" for name, value in found.ratios.items()))


@app.command()
def capacity(
    adapters: Annotated[str, typer.Option(help="How many there are, one load after another.")] = "1,5,8,64,512,2000",
    peers: Annotated[str, typer.Option(help="Who is asked.")] = "looper,ray serve llm,vllm,peft",
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 60.0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Predict instead: calibrate in two minutes, then ask the model.")
    ] = False,
    rates: Annotated[str, typer.Option(help="With --simulate: requests a second that are to be carried.")] = "1,2,4,8",
    replicas: Annotated[str, typer.Option(help="With --simulate: engines, on a machine each.")] = "1,2,4",
    out: Annotated[Path, typer.Option(help="Folder for each load's numbers and for the report.")] = Path("capacity"),
    json: Json = False,
) -> None:
    """Put the same load on many adapters to Looper, stock Ray Serve LLM, stock vLLM, and PEFT that switches them.

    Two loads for each number of adapters: one that nobody keeps up with, for throughput, and a steady one of 0.6 times
    what Looper answers of that, for times to the first token. Then 32 adapters that nobody asked for before, at once.

    With --simulate a model of the engine, calibrated on this machine, says how many adapters a cluster carries at a
    load, and how far it is off on the loads that --out holds.

    Example: `looper bench capacity --adapters 8,512 --peers looper,vllm --out capacity`
    """
    needs.to_run("looper bench capacity", "bench")

    from rich.console import Console

    from looper.benchmarks.capacity.bench import bench, simulate_capacity
    from looper.benchmarks.capacity.report import to_table
    from looper.benchmarks.capacity.simulation.predict import to_tables
    from looper.benchmarks.machine import describe
    from looper.jobs.basemodel.prepare import prepare
    from looper.platform.settings import load_settings

    settings = load_settings()
    counts, names = [int(each) for each in adapters.split(",")], [each.strip() for each in peers.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 200)
    with progress() as display:
        line = display.add_task("base model", total=None, note="")
        model_dir = prepare(settings.base, settings.models_dir)

        def notify(what: str) -> None:
            display.update(line, description=what)

        if simulate:
            simulated = simulate_capacity(
                out,
                settings.base,
                model_dir,
                seconds=seconds,
                rates=[float(each) for each in rates.split(",")],
                replicas=[int(each) for each in replicas.split(",")],
                notify=notify,
            )
        else:
            found = bench(
                out,
                settings.base,
                model_dir,
                peers=names,
                counts=counts,
                seconds=seconds,
                machine=describe(),
                notify=notify,
            )
    if json:
        emit_json(simulated if simulate else found)
    elif simulate:
        for each in to_tables(simulated):
            console.print(each, "")
    else:
        console.print(to_table(found))
        console.print("\n".join(f"{name}: {value}" for name, value in found.ratios.items()))
