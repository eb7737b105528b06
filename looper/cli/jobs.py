"""``looper jobs``"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, table
from looper.cli.watch import exit_if_failed, why

if TYPE_CHECKING:
    from datetime import datetime

    from looper.platform.domain.consolidation import Margins

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
            ["consolidation", "instance", "state", "priority", "submitted", "why"],
            [(job.id, job.instance, job.state, job.priority, _moment(job.created_at), why(job)) for job in jobs],
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
    rows += [("priority", info.priority), ("submitted", _moment(info.created_at))]
    rows += [("started", _moment(info.started_at)), ("ended", _moment(info.ended_at))]
    rows += [("recipe", ", ".join(f"{name} {value}" for name, value in info.recipe.model_dump().items()))]
    if info.verdict:
        for name, scores in (("candidate", info.verdict.candidate), ("current", info.verdict.current)):
            accuracy = "-" if scores.accuracy is None else f"{scores.accuracy:.3f}"
            judged = f"accuracy {accuracy} of {scores.actions} actions"
            rows.append((name, f"{judged}, loss {scores.loss:.4f} of {scores.tokens} tokens"))
        if info.verdict.margins:
            rows.append(("pairs", _margins(info.verdict.margins)))
    table(["", ""], [*rows, *_report_of(info.id)], empty="")


def _margins(margins: "Margins") -> str:
    told = f"{margins.pairs} preferred"
    if margins.before is not None and margins.after is not None:
        told += f", margin {margins.before:.2f} -> {margins.after:.2f}"
    return told + "".join(f"; {count} left out: {reason}" for reason, count in margins.left_out.items())


def _report_of(id: str) -> list[tuple[str, object]]:
    """Where the page on its data is, if there is one yet."""
    from looper.platform.objectstore import ObjectStore, keys
    from looper.platform.settings import load_settings

    store, page = ObjectStore.open(load_settings()), keys.examples(id, "report.html")
    return [("report", f"{store.url}/{page}")] if store.exists(page) else []


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
def watch(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[CONSOLIDATION]...", help="default: all that have not ended")
    ] = None,
    json: Json = False,
) -> None:
    """Follow consolidations live until all of them have ended. With `--json`, a line is printed per change.

    Example: `looper jobs watch`
    """
    from looper.cli.watch import watch as follow
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    ids = ids or [job.id for job in catalog.unfinished()]
    if ids:
        exit_if_failed(follow(catalog, ids, sys.stdout, json=json))
    elif not json:
        typer.echo("no consolidation waits or is worked on: looper consolidate TENANT/INSTANCE")


@app.command()
def cancel(ids: Annotated[list[str], typer.Argument(metavar="CONSOLIDATION...")]) -> None:
    """Stop consolidations at whatever stage they are; the others of their cohorts go on.

    Example: `looper jobs cancel 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import Conflict, LooperError, NotFound
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    mistakes = []
    for id in dict.fromkeys(ids):
        try:
            catalog.cancel(id)
        except (Conflict, NotFound) as error:
            mistakes.append(str(error))
        else:
            typer.echo(f"consolidation {id} is cancelled")
    if mistakes:
        raise LooperError("; ".join(mistakes))


def _moment(at: "datetime | None") -> str | None:
    return f"{at:%F %T}" if at else None
