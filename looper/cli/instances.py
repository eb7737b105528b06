"""``looper instance``: creates, lists and shows instances."""

from typing import Annotated

import typer

from looper.cli.output import Json, emit_json, table

app = typer.Typer(
    help="Create and show instances (deployed agents). Ingesting trajectories creates an instance, too.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only instances of this tenant.")] = None,
    json: Json = False,
) -> None:
    """List the instances.

    Example: `looper instance list --tenant acme`
    """
    from looper.cli.control_plane import open_control_plane

    found = open_control_plane().list_instances(tenant)
    if json:
        emit_json(found)
    else:
        table(
            ["instance", "batches", "trajectories", "prod"],
            [(info.name, info.batches, info.trajectories, info.prod and info.prod[:12]) for info in found],
            empty="no instances yet: looper ingest PATH --instance TENANT/INSTANCE",
        )


@app.command()
def create(
    instance: Annotated[str, typer.Argument(metavar="TENANT/INSTANCE", help="The instance.")],
    base: Annotated[str, typer.Option(help="Base model of the cluster, as its settings name it.")],
    json: Json = False,
) -> None:
    """Create an instance on a base model, or put one that has no version yet on it.

    Example: `looper instance create acme/helpdesk --base Qwen/Qwen3-8B`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    info = open_control_plane().create_instance(InstanceName.parse(instance), base)
    if json:
        emit_json(info)
    else:
        typer.echo(f"{info.name} is on base model {info.base}")


@app.command()
def show(
    instance: Annotated[str, typer.Argument(metavar="TENANT/INSTANCE", help="The instance.")],
    json: Json = False,
) -> None:
    """Show one instance: its batches and its events.

    Example: `looper instance show acme/helpdesk`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    control_plane, name = open_control_plane(), InstanceName.parse(instance)
    info, batches, events = (
        control_plane.get_instance(name),
        control_plane.list_batches(name),
        control_plane.list_instance_events(name),
    )
    if json:
        emit_json({**info.model_dump(), "batch_list": batches, "events": events})
        return
    on = f", on base model {info.base}" if info.base else ""
    typer.echo(
        f"{info.name}: {info.trajectories} trajectories in {info.batches} batches, prod {info.prod or '-'}{on}\n"
    )
    table(
        ["batch", "trajectories", "ingested", "source"],
        [(batch.id[:12], batch.trajectories, f"{batch.created_at:%F %T}", batch.source) for batch in batches],
        empty="no batches",
    )
    typer.echo("")
    table(["when", "what"], [(f"{event.at:%F %T}", event.what) for event in events], empty="no events yet")
