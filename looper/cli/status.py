"""``looper status``: what runs where, and what waits for what."""

from typing import TYPE_CHECKING

import typer

from looper.cli.output import Json, emit_json, format_time, table

if TYPE_CHECKING:
    from looper.platform.api.cluster_models import ClusterInfo
    from looper.platform.domain.cluster_report import ClusterReport

MAX_REPORT_AGE_S = 30.0
"""A report that is older, in seconds, is called out of date. The control loop writes one every few seconds."""


def status(json: Json = False) -> None:
    """Show what runs where, how many consolidations are in each state, and what waits for what.

    Example: `looper status`
    """
    from looper.cli.control_plane import open_control_plane

    found = open_control_plane().read_cluster()
    if json:
        emit_json(found)
        return
    _show_where(found)
    if found.report is not None and found.urls:
        if (found.report_age_s or 0.0) > MAX_REPORT_AGE_S:
            typer.echo(
                f"alert: what follows is of {format_time(found.reported_at)} UTC; no control loop reported since"
            )
        _show_report(found.report)
    for trainer in found.trainers:
        where = f"on {trainer.node}" if trainer.node else f"starting since {format_time(trainer.started_at)} UTC"
        typer.echo(f"trainer for {trainer.base} ({trainer.shape}) {where}{', stopping' if trainer.is_stopping else ''}")
    for failure in found.trainer_failures:
        typer.echo(
            f"alert: {failure.reason} ({failure.failures} times, next attempt at {format_time(failure.retry_at)} UTC)"
        )
    jobs = sorted(found.consolidations.items())
    typer.echo(", ".join(f"{count} {name}" for name, count in jobs) or "no consolidations yet")
    for reason, count in found.waits.items():
        typer.echo(f"{count} of them {reason}")


def _show_where(found: "ClusterInfo") -> None:
    answers = "healthy" if found.healthy else "not answering"
    cluster, existing_ray = getattr(found, "cluster", None), getattr(found, "existing_ray", None)
    if cluster is not None:
        typer.echo(f"{cluster.phase} at {cluster.url or '-'}, {answers}, pid {cluster.pid}")
        if cluster.gpus:
            typer.echo(cluster.gpus)
        for pool, capacity in cluster.engines.items():
            typer.echo(f"each engine for {pool}: {capacity}")
    elif existing_ray is not None:
        typer.echo(f"up on the Ray at {existing_ray.address}: {', '.join(found.urls)}, {answers}")
    elif found.urls:
        typer.echo(f"up at {', '.join(found.urls)}, {answers}")
    else:
        typer.echo("no cluster is running: looper up")
        return
    typer.echo(f"control loop {found.leader.holder} leads" if found.leader else "alert: no control loop leads")


def _show_report(report: "ClusterReport") -> None:
    rows = [
        (
            f"{node.name} (head)" if node.is_head else node.name,
            node.address,
            f"{node.cpus:g}",
            f"{node.gpus:g} {node.gpu_type}".strip() if node.gpus else None,
            " ".join(node.roles) or None,
        )
        for node in report.nodes
    ]
    table(["node", "address", "cpus", "gpus", "roles"], rows, empty="no nodes")
    for deployment in report.deployments:
        states = ", ".join(f"{count} {state.lower()}" for state, count in deployment.replicas.items() if count)
        typer.echo(f"{deployment.name}: {states or 'no replicas'}, {deployment.status.lower().replace('_', ' ')}")
    for wait in report.waiting:
        needs = ", ".join(f"{amount:g} {name}" for name, amount in wait.resources.items())
        typer.echo(f"{wait.what} waits since {format_time(wait.since)} UTC for {needs}")
    for problem in report.problems:
        typer.echo(f"alert: {problem}")
