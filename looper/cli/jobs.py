"""``looper jobs``"""

from typing import Annotated

import typer

from looper.cli.consolidate import why
from looper.cli.output import Json, emit_json, table

app = typer.Typer(help="Consolidations: queued, running and ended.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="CONSOLIDATION", help="its id, as looper jobs list shows it")]


@app.command("list")
def list_(
    instance: Annotated[str | None, typer.Option(metavar="TENANT/INSTANCE", help="Only this instance's.")] = None,
    json: Json = False,
) -> None:
    """List consolidations, newest first.

    Example: `looper jobs list --instance acme/helpdesk`
    """
    from looper.platform.api.models import ConsolidationInfo
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    only = InstanceName.parse(instance) if instance else None
    jobs = Catalog.open(load_settings()).consolidations(instance=only)
    if json:
        emit_json([ConsolidationInfo.of(job) for job in jobs])
    else:
        table(
            ["consolidation", "instance", "state", "submitted", "why"],
            [(job.id, job.instance, job.state, f"{job.created_at:%F %T}", why(job)) for job in jobs],
            empty="no consolidations yet: looper consolidate TENANT/INSTANCE",
        )


@app.command()
def show(id: Id, json: Json = False) -> None:
    """Show one consolidation: state, recipe, verdict and numbers.

    Example: `looper jobs show 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.platform.api.models import ConsolidationInfo
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    info = ConsolidationInfo.of(Catalog.open(load_settings()).consolidation(id))
    if json:
        emit_json(info)
        return
    rows: list[tuple[str, object]] = [(name, getattr(info, name)) for name in ("id", "instance", "state", "reason")]
    rows += [("base", info.base), ("starts from", info.parent), ("batches", info.batches), ("published", info.digest)]
    rows += [("recipe", ", ".join(f"{name} {value}" for name, value in info.recipe.model_dump().items()))]
    if info.verdict:
        for name, scores in (("candidate", info.verdict.candidate), ("current", info.verdict.current)):
            accuracy = "-" if scores.accuracy is None else f"{scores.accuracy:.3f}"
            judged = f"accuracy {accuracy} of {scores.actions} actions"
            rows.append((name, f"{judged}, loss {scores.loss:.4f} of {scores.tokens} tokens"))
    table(["", ""], rows, empty="")


@app.command()
def logs(id: Id, json: Json = False) -> None:
    """Print what happened to a consolidation.

    Example: `looper jobs logs 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.platform.api.models import EventInfo
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    events = [EventInfo.of(event) for event in catalog.events(consolidation=catalog.consolidation(id).id)]
    if json:
        emit_json(events)
    else:
        for event in events:
            typer.echo(f"{event.at:%F %T}  {event.what}")


@app.command()
def watch(id: Id) -> None:
    """Follow a consolidation live until it ends.

    Example: `looper jobs watch 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.cli.watch import watch as follow
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    (job,) = follow(Catalog.open(load_settings()), [id])
    typer.echo(f"{job.instance}: {job.state}{f', {why(job)}' if why(job) else ''}")


@app.command()
def cancel(id: Id) -> None:
    """Stop a consolidation at whatever stage it is; the others of its cohort go on.

    Example: `looper jobs cancel 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    Catalog.open(load_settings()).cancel(id)
    typer.echo(f"consolidation {id} is cancelled")
