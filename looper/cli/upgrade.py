"""``looper upgrade``: bring what runs to the Looper and the settings of here, and say before what that will do."""

from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, fail, progress, table
from looper.cli.up import Address, find_address, find_joined

if TYPE_CHECKING:
    from looper.cluster.upgrade_plan import Place, UpgradePlan
    from looper.platform.settings import Settings


def upgrade(
    address: Address = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what will happen, and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Bring the catalog and what runs to the Looper and the settings of this machine.

    On a Ray that exists, replicas are replaced one after another and no request fails. A private Ray restarts.

    Example: `looper upgrade --plan`

    Example: `looper upgrade --address 10.0.0.5:6379`
    """
    requirements.check_machine("looper upgrade")

    from looper.cluster.upgrade_plan import make_plan
    from looper.platform.settings import load_settings

    settings = load_settings()
    joined = find_address(settings, address) or find_joined(settings)
    found = make_plan(settings, _find_place(settings, joined))
    if json and plan:
        emit_json(found)
    if not json:
        _show(found)
    if plan:
        return
    if found.refusal:
        fail(found.refusal)
    if not found.has_work:
        if not json:
            typer.echo("nothing to do")
        return
    urls = _carry_out(settings, joined, found)
    if json:
        emit_json({"plan": found, "urls": urls})
    else:
        typer.echo(f"upgraded: {', '.join(urls)}" if urls else "upgraded; no cluster is running: looper up")


def _find_place(settings: "Settings", joined: str | None) -> "Place":
    from looper.cluster.state import read_state

    if joined:
        return "existing ray"
    return "private ray" if read_state(settings) is not None else "none"


def _carry_out(settings: "Settings", joined: str | None, plan: "UpgradePlan") -> list[str]:
    """Do it, and return the URLs of the HTTP API."""
    from looper.cluster import control
    from looper.cluster.existing_ray import bring_up
    from looper.cluster.migration import migrate_catalog

    with progress() as live:
        line = live.add_task("upgrading Looper", total=None, note="")
        migrate_catalog(settings)
        if joined:
            return bring_up(settings, joined, lambda status: live.update(line, note=status))
        if plan.place == "none":
            return []
        control.stop_cluster(settings)
        return [control.start_cluster(settings, on_progress=lambda status: live.update(line, note=status))]


def _show(plan: "UpgradePlan") -> None:
    rows = [
        (step.part, step.before or None, step.after or None, step.how, step.requests or None) for step in plan.steps
    ]
    table(["part", "before", "after", "what happens", "requests"], rows, empty="nothing")
    if plan.refusal:
        typer.echo(f"alert: {plan.refusal}")
