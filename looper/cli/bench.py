"""``looper bench``: runs the benchmarks and prints their results."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.bench_forgetting import forgetting
from looper.cli.bench_skill import skill
from looper.cli.output import Json, emit_json, progress

app = typer.Typer(
    help="Run benchmarks. Results that exist in the output folder are not measured again.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass


@app.command()
def consolidation(
    n: Annotated[int, typer.Option("--n", min=1, help="Number of instances to consolidate.")] = 16,
    tasks: Annotated[int, typer.Option(min=8, help="Number of tasks per instance; 24 are typical for a day.")] = 24,
    out: Annotated[Path, typer.Option(help="Folder for the results of each variant and for the report.")] = Path(
        "consolidation"
    ),
    json: Json = False,
) -> None:
    """Compare consolidation by Looper with one TorchTrainer per instance, one after another and in parallel.

    Example: `looper bench consolidation --n 16 --out consolidation`
    """
    requirements.check_machine("looper bench consolidation", "bench")

    from rich.console import Console

    from looper.basemodel.prepare import prepare_base
    from looper.benchmarks.consolidation.bench import bench, to_table
    from looper.benchmarks.machine import describe_machine
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as display:
        line = display.add_task("base model", total=None, note="")
        model_dir = prepare_base(settings)
        found = bench(
            n,
            tasks,
            out,
            settings.base,
            model_dir,
            describe_machine(),
            lambda name: display.update(line, description=name),
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
        int, typer.Option(min=400, help="Number of trajectories of the largest load; the smallest load is a hundredth.")
    ] = 100_000,
    out: Annotated[
        Path, typer.Option(help="Folder for the trajectories, the results of each variant and the report.")
    ] = Path("synthesis"),
    json: Json = False,
) -> None:
    """Compare synthesis by Looper, with 1 and 2 workers, with a plain loop and with datasets.map.

    Example: `looper bench synthesis --out synthesis`
    """
    requirements.check_machine("looper bench synthesis", "bench")

    from rich.console import Console

    from looper.benchmarks.machine import describe_machine
    from looper.benchmarks.synthesis.bench import bench, to_table

    with progress() as display:
        line = display.add_task("trajectories", total=None, note="")
        found = bench(trajectories, out, describe_machine(), lambda name: display.update(line, description=name))
    if json:
        emit_json(found)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(to_table(found))
        console.print("\n".join(f"{name}: {value}" for name, value in found.ratios.items()))


@app.command()
def capacity(
    adapters: Annotated[
        str, typer.Option(help="Numbers of adapters, one load each, separated by commas.")
    ] = "1,5,8,64,512,2000",
    peers: Annotated[
        str, typer.Option(help="Servers to compare, separated by commas.")
    ] = "looper,ray serve llm,vllm,peft",
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each load, in seconds.")] = 60.0,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Predict with a model of the engine, calibrated in two minutes, instead of measuring."
        ),
    ] = False,
    rates: Annotated[str, typer.Option(help="With --simulate: requests per second, separated by commas.")] = "1,2,4,8",
    replicas: Annotated[
        str,
        typer.Option(help="With --simulate: numbers of engines, each on a machine of its own, separated by commas."),
    ] = "1,2,4",
    out: Annotated[Path, typer.Option(help="Folder for the results of each load and for the report.")] = Path(
        "capacity"
    ),
    json: Json = False,
) -> None:
    """Compare serving many adapters by Looper, stock Ray Serve LLM, stock vLLM, and PEFT that switches adapters.

    Each number of adapters gets two loads. The first is more than any server can answer and measures throughput. The
    second is 0.6 times the throughput of Looper and measures the time to the first token. At the end come requests for
    32 adapters that were never requested before, all at the same time.

    With --simulate, a model of the engine is calibrated on this machine. It predicts how many adapters a cluster can
    serve at a load, and reports its error on the loads whose results are in --out.

    Example: `looper bench capacity --adapters 8,512 --peers looper,vllm --out capacity`
    """
    requirements.check_machine("looper bench capacity", "bench")

    from rich.console import Console

    from looper.basemodel.prepare import prepare_base
    from looper.benchmarks.capacity.bench import bench, simulate_capacity
    from looper.benchmarks.capacity.report import to_table
    from looper.benchmarks.capacity.simulation.predict import to_tables
    from looper.benchmarks.machine import describe_machine
    from looper.platform.settings import load_settings

    settings = load_settings()
    counts, names = [int(each) for each in adapters.split(",")], [each.strip() for each in peers.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 200)
    with progress() as display:
        line = display.add_task("base model", total=None, note="")
        model_dir = prepare_base(settings)

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
                machine=describe_machine(),
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


@app.command()
def scale(
    catalog: Annotated[
        str | None,
        typer.Option(
            help="URL of an empty PostgreSQL database on this machine, which is filled and measured. Without one, the "
            "catalog is not measured."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="URL of an empty object store to measure, such as s3://BUCKET. Default: a temporary folder."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Simulate and measure small numbers only, in about a minute.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results of each scenario and for the report.")] = Path(
        "scale"
    ),
    json: Json = False,
) -> None:
    """Find out where Looper is full with thousands of engines, a million adapters and many gateways.

    The parts that decide are the real ones: placement, admission, autoscaling, prefetching and the adapter cache. Time,
    network, engines and failures are simulated. What an operation costs is measured with the real code.

    Example: `looper bench scale --catalog postgresql://looper@127.0.0.1/empty --out scale`
    """
    requirements.check_machine("looper bench scale", "bench")

    from rich.console import Console

    from looper.benchmarks.machine import describe_machine
    from looper.benchmarks.scale.bench import bench
    from looper.benchmarks.scale.report import to_tables
    from looper.platform.settings import load_settings

    with progress() as display:
        line = display.add_task("simulation", total=None, note="")
        found = bench(
            out,
            machine=describe_machine(),
            catalog_url=catalog,
            store=load_settings(store={"url": store}) if store else None,
            quick=quick,
            notify=lambda text: display.update(line, description=text),
        )
    if json:
        emit_json(found)
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        for table in to_tables(found):
            console.print(table, "")
        console.print("\n".join(f"{name}: {value}" for name, value in found.ratios.items()))


app.command()(forgetting)
app.command()(skill)
