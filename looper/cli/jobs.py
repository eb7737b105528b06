"""``looper jobs``: lists, shows, follows and cancels consolidations."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, format_time, table
from looper.cli.watch import exit_if_failed, reason_of, state_of

if TYPE_CHECKING:
    from looper.platform.domain.scores import Evidence, Margins

app = typer.Typer(help="Manage consolidations: queued, running and ended ones.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="CONSOLIDATION", help="Id of the consolidation, from looper jobs list.")]


@app.command("list")
def list_(
    instance: Annotated[
        str | None, typer.Option(metavar="TENANT/INSTANCE", help="Only consolidations of this instance.")
    ] = None,
    json: Json = False,
) -> None:
    """List consolidations, newest first.

    Example: `looper jobs list --instance acme/helpdesk`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    only = InstanceName.parse(instance) if instance else None
    jobs = open_control_plane().list_consolidations(only)
    if json:
        emit_json(jobs)
    else:
        table(
            ["consolidation", "instance", "state", "priority", "submitted", "reason"],
            [
                (job.id, job.instance, state_of(job), job.priority, format_time(job.created_at), reason_of(job))
                for job in jobs
            ],
            empty="no consolidations yet: looper consolidate TENANT/INSTANCE",
        )


@app.command()
def show(id: Id, json: Json = False) -> None:
    """Show one consolidation: its state, its recipe and the measurements of the gate.

    Example: `looper jobs show 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.context_shares import describe_context

    control_plane = open_control_plane()
    (info,) = control_plane.get_consolidations([id])
    if json:
        emit_json(info)
        return
    rows: list[tuple[str, object]] = [("id", info.id), ("instance", info.instance), ("state", state_of(info))]
    rows += [("reason", info.reason)]
    rows += [("base", info.base), ("starts from", info.parent), ("batches", info.batches), ("published", info.digest)]
    rows += [("priority", info.priority), ("submitted", format_time(info.created_at))]
    rows += [("started", format_time(info.started_at)), ("ended", format_time(info.ended_at))]
    rows += [("recipe", ", ".join(f"{name} {value}" for name, value in info.recipe.model_dump().items()))]
    if info.verdict:
        rows.append(("verdict", info.verdict.decision))
        for name, scores in (("candidate", info.verdict.candidate), ("current", info.verdict.current)):
            accuracy = "-" if scores.accuracy is None else f"{scores.accuracy:.3f}"
            judged = f"accuracy {accuracy} of {scores.actions} actions"
            rows.append((name, f"{judged}, loss {scores.loss:.4f} of {scores.tokens} tokens"))
        for name, evidence in (("new tasks", info.verdict.evidence), ("earlier tasks", info.verdict.earlier_evidence)):
            if evidence:
                rows.append((name, _describe_evidence(evidence)))
        if exact := info.verdict.exact:
            rows.append(("tasks exactly right", f"{exact.candidate} of {exact.tasks}, before {exact.reference}"))
        for context, results in (info.verdict.contexts or {}).items():
            now, before = results.candidate, results.reference
            rows.append(
                (describe_context(context), f"{now.right} of {now.actions} actions right, before {before.right}")
            )
        if info.verdict.margins:
            rows.append(("pairs", _margins(info.verdict.margins)))
    if (report := control_plane.find_report(info.id)) is not None:
        rows.append(("report", report))
    table(["", ""], rows, empty="")


def _describe_evidence(evidence: "Evidence") -> str:
    text = f"better on {evidence.better} and worse on {evidence.worse} of {evidence.tasks}"
    text += f", by chance {evidence.p_better:.2g} and {evidence.p_worse:.2g}"
    return text + (f"; about {evidence.needed} would be evidence" if evidence.needed else "")


def _margins(margins: "Margins") -> str:
    text = f"{margins.pairs} preferred"
    if margins.before is not None and margins.after is not None:
        text += f", margin {margins.before:.2f} -> {margins.after:.2f}"
    return text + "".join(f"; {count} left out: {reason}" for reason, count in margins.left_out.items())


@app.command()
def logs(id: Id, json: Json = False) -> None:
    """Print the events of a consolidation: each change of its state, with time and reason.

    These are not the log messages of the trainer. `looper up` writes those to logs/head.log in the home folder.

    Example: `looper jobs logs 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.cli.control_plane import open_control_plane

    events = open_control_plane().list_consolidation_events(id)
    if json:
        emit_json(events)
    else:
        for event in events:
            typer.echo(f"{event.at:%F %T}  {event.what}")


@app.command()
def report(
    id: Id,
    out: Annotated[
        Path | None, typer.Option(help="File to write the page to. Default: report-CONSOLIDATION.html.")
    ] = None,
    json: Json = False,
) -> None:
    """Save the report on the training data of a consolidation: what was kept, what was dropped and why.

    The page has examples of both. With --json, only the counts are printed.

    Example: `looper jobs report 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10 --out report.html`
    """
    from looper.cli.control_plane import open_control_plane

    control_plane = open_control_plane()
    if json:
        typer.echo(control_plane.read_report(id, "json").decode())
        return
    page, file = control_plane.read_report(id, "html"), out or Path(f"report-{id}.html")
    file.write_bytes(page)
    typer.echo(f"the report is in {file}")


@app.command()
def watch(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONSOLIDATION]...", help="Consolidations to follow. Default: all that have not ended."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Follow consolidations until all of them have ended. With `--json`, each change prints one line of JSON.

    Example: `looper jobs watch`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.cli.watch import watch as watch_consolidations

    control_plane = open_control_plane()
    ids = ids or [job.id for job in control_plane.list_unfinished()]
    if ids:
        exit_if_failed(watch_consolidations(control_plane, ids, sys.stdout, json=json))
    elif not json:
        typer.echo("no consolidation is queued or running: looper consolidate TENANT/INSTANCE")


@app.command()
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="CONSOLIDATION...", help="Consolidations to cancel.")],
) -> None:
    """Cancel consolidations that have not ended. Other consolidations in the same trainers continue.

    Example: `looper jobs cancel 3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.errors import Conflict, LooperError, NotFound

    control_plane = open_control_plane()
    errors = []
    for id in dict.fromkeys(ids):
        try:
            control_plane.cancel(id)
        except (Conflict, NotFound) as error:
            errors.append(error.detail)
        else:
            typer.echo(f"consolidation {id} is cancelled")
    if errors:
        raise LooperError("; ".join(errors))
