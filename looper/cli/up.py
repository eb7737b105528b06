"""``looper up``, ``status`` and ``down``"""

from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import needs
from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.cluster.state import ClusterState


def up(
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API; 0 takes a free one.")] = None,
    json: Json = False,
) -> None:
    """Bring Looper up on this machine and keep it up: the endpoint, the skill servers, and who works the queue.

    Example: `looper up --port 8000`
    """
    needs.to_run("looper up")

    from looper.cluster import control
    from looper.cluster.state import read_state
    from looper.platform.settings import load_settings

    settings = load_settings() if port is None else load_settings(serve={"port": port})
    with progress() as live:
        line = live.add_task("bringing Looper up", total=None, note="")
        url = control.up(settings, waiting=lambda what: live.update(line, note=what))
    if json:
        emit_json({"url": url})
    else:
        typer.echo(f"Looper is up at {url} (OpenAI's API at {url}/v1, the control plane's document at {url}/docs)")
        _show_engines(read_state(settings))


def _show_engines(state: "ClusterState | None") -> None:
    for rank, holds in state.engines.items() if state else ():
        typer.echo(f"each engine for ranks up to {rank}: {holds}")


def status(json: Json = False) -> None:
    """Say what runs on this machine, and what waits.

    Example: `looper status`
    """
    from collections import Counter

    from looper.cluster.control import healthy
    from looper.cluster.state import read_state
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    settings = load_settings()
    state = read_state(settings)
    jobs = Counter(str(job.state) for job in Catalog.open(settings).consolidations())
    answers = bool(state and state.url and healthy(state.url))
    if json:
        emit_json({"cluster": state, "healthy": answers, "consolidations": jobs, "home": str(settings.home)})
        return
    if state is None:
        typer.echo("no cluster is up: looper up")
    else:
        typer.echo(f"{state.phase} at {state.url or '-'}, {'healthy' if answers else 'not answering'}, pid {state.pid}")
        _show_engines(state)
    typer.echo(", ".join(f"{count} {name}" for name, count in sorted(jobs.items())) or "no consolidations yet")


def down() -> None:
    """End the cluster of this machine. Work that runs is given back, and goes on at the next start.

    Example: `looper down`
    """
    from looper.cluster import control
    from looper.platform.settings import load_settings

    with progress() as live:
        live.add_task("ending the cluster", total=None, note="")
        ended = control.down(load_settings())
    typer.echo("Looper is down" if ended else "no cluster was up")
