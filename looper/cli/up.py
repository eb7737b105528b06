"""``looper up``, ``status`` and ``down``: start, inspect and stop the cluster of this machine."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.cluster.state import ClusterState


def up(
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API; 0 takes a free one.")] = None,
    json: Json = False,
) -> None:
    """Start Looper on this machine and keep it running: the HTTP API, the engines, and the queue worker.

    Example: `looper up --port 8000`
    """
    requirements.check_machine("looper up")

    from looper.cluster import control
    from looper.cluster.state import read_state
    from looper.platform.settings import load_settings
    from looper.serve.deployment.tls import find_exposure

    settings = load_settings() if port is None else load_settings(serve={"port": port})
    if exposure := find_exposure(settings.serve):
        typer.echo(f"warning: {exposure}", err=True)
    with progress() as live:
        line = live.add_task("starting Looper", total=None, note="")
        url = control.start_cluster(settings, on_progress=lambda status: live.update(line, note=status))
    if json:
        emit_json({"url": url})
    else:
        typer.echo(
            f"Looper is up at {url} (OpenAI API at {url}/v1, OpenAPI document of the control plane at {url}/docs)"
        )
        _show_engines(read_state(settings))


def _show_engines(state: "ClusterState | None") -> None:
    if state and state.gpus:
        typer.echo(state.gpus)
    for rank, capacity in state.engines.items() if state else ():
        typer.echo(f"each engine for ranks up to {rank}: {capacity}")


def status(json: Json = False) -> None:
    """Show whether a cluster runs on this machine, how many consolidations are in each state, and what they wait for.

    Example: `looper status`
    """
    from looper.cluster.control import is_healthy
    from looper.cluster.state import read_state
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    settings = load_settings()
    state = read_state(settings)
    catalog = Catalog.open(settings)
    jobs = {str(state): count for state, count in catalog.count_consolidations().items()}
    waits = Counter(job.reason for job in catalog.list_unfinished() if job.reason)
    is_answering = bool(state and state.url and is_healthy(state.url, settings))
    if json:
        emit_json(
            {
                "cluster": state,
                "healthy": is_answering,
                "consolidations": jobs,
                "waits": waits,
                "home": str(settings.home),
            }
        )
        return
    if state is None:
        typer.echo("no cluster is running: looper up")
    else:
        typer.echo(
            f"{state.phase} at {state.url or '-'}, {'healthy' if is_answering else 'not answering'}, pid {state.pid}"
        )
        _show_engines(state)
    typer.echo(", ".join(f"{count} {name}" for name, count in sorted(jobs.items())) or "no consolidations yet")
    for reason, count in waits.items():
        typer.echo(f"{count} of them {reason}")


def down() -> None:
    """Stop the cluster of this machine. Running consolidations return to the queue and continue after the next start.

    Example: `looper down`
    """
    from looper.cluster import control
    from looper.platform.settings import load_settings

    with progress() as live:
        live.add_task("stopping the cluster", total=None, note="")
        was_running = control.stop_cluster(load_settings())
    typer.echo("Looper is down" if was_running else "no cluster was running")
