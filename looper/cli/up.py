"""``looper up`` and ``looper down``: start and stop Looper on this machine or on a Ray that exists."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress

if TYPE_CHECKING:
    from looper.cluster.state import ClusterState
    from looper.platform.settings import Settings


Address = Annotated[
    str | None,
    typer.Option(
        help="A Ray that exists: auto, HOST:PORT or ray://HOST:PORT. Default: cluster.address, or RAY_ADDRESS, or a "
        "private Ray on this machine."
    ),
]


def up(
    port: Annotated[int | None, typer.Option(help="Port of the HTTP API; 0 takes a free one.")] = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Start Looper and keep it running: the HTTP API, the engines, and the control loop.

    It starts a private Ray on this machine, or joins a Ray that exists.

    Example: `looper up --port 8000`

    Example: `looper up --address 10.0.0.5:6379`
    """
    requirements.check_machine("looper up")

    from looper.platform.settings import load_settings
    from looper.serve.deployment.tls import find_exposure

    settings = load_settings() if port is None else load_settings(serve={"port": port})
    if exposure := find_exposure(settings.serve):
        typer.echo(f"warning: {exposure}", err=True)
    if joined := find_address(settings, address):
        _up_on_existing_ray(settings, joined, json=json)
        return

    from looper.cluster import control
    from looper.cluster.state import read_state

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


def find_address(settings: "Settings", flag: str | None) -> str | None:
    """Return the address of the Ray to join, or None for a private one.

    Args:
        settings: Settings here.
        flag: Address that the command was given.
    """
    return flag or settings.cluster.address or os.environ.get("RAY_ADDRESS") or None


def find_joined(settings: "Settings") -> str | None:
    """Return the address of the Ray that Looper was brought up on, unless a private one runs on this machine.

    Args:
        settings: Settings here.
    """
    from looper.cluster.cluster_status import EXISTING_RAY, ExistingRay
    from looper.cluster.migration import read_report
    from looper.cluster.state import read_state

    if read_state(settings) is not None:
        return None
    found = read_report(settings, EXISTING_RAY)
    return ExistingRay.model_validate(found).address if found else None


def _up_on_existing_ray(settings: "Settings", address: str, *, json: bool) -> None:
    from looper.cluster.existing_ray import bring_up

    with progress() as live:
        line = live.add_task("starting Looper", total=None, note="")
        urls = bring_up(settings, address, lambda status: live.update(line, note=status))
    if json:
        emit_json({"url": urls[0], "urls": urls, "address": address})
        return
    typer.echo(f"Looper is up on the Ray at {address}: {', '.join(urls)}")
    if settings.serve.host == "127.0.0.1":
        typer.echo("serve.host is 127.0.0.1, so each node answers itself only: set serve.host to 0.0.0.0 for others")


def _show_engines(state: "ClusterState | None") -> None:
    if state and state.gpus:
        typer.echo(state.gpus)
    for pool, capacity in state.engines.items() if state else ():
        typer.echo(f"each engine for {pool}: {capacity}")


def down(address: Address = None) -> None:
    """Stop Looper. Running consolidations return to the queue and continue after the next start.

    A Ray that Looper has joined goes on, with everything on it that is not Looper's.

    Example: `looper down`
    """
    from looper.platform.settings import load_settings

    settings = load_settings()
    with progress() as live:
        live.add_task("stopping Looper", total=None, note="")
        if joined := find_address(settings, address) or find_joined(settings):
            from looper.cluster.existing_ray import take_down

            was_running = take_down(settings, joined)
        else:
            from looper.cluster import control

            was_running = control.stop_cluster(settings)
    typer.echo("Looper is down" if was_running else "Looper was not running")
