"""``looper skills``: shows versions, moves channels and exports adapters."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, table

if TYPE_CHECKING:
    from looper.cli.control_plane.interface import ControlPlane
    from looper.platform.api.models import SkillInfo
    from looper.platform.domain.names import InstanceName
    from looper.platform.domain.scores import GateVerdict, Scores

app = typer.Typer(help="Manage what is served: channels and the versions that they point to.", no_args_is_help=True)

Instance = Annotated[str, typer.Argument(metavar="TENANT/INSTANCE", help="Instance of the skill.")]
Digest = Annotated[str, typer.Argument(help="Digest of the version, or its first characters.")]
Channel = Annotated[str, typer.Option(help="Channel to point to another version.")]
Expected = Annotated[
    str | None,
    typer.Option(help="Change nothing unless the channel points to this version: its digest, or its first characters."),
]

NUM_SHOWN_VERSIONS = 1000
"""Number of versions that are shown of one skill."""


@app.command("list")
def list_(json: Json = False) -> None:
    """List the skills and the versions that their channels point to. With --json, each has its 10 newest versions.

    Example: `looper skills list`
    """
    from looper.cli.control_plane import open_control_plane

    skills = open_control_plane().list_skills()
    if json:
        emit_json(skills)
    else:
        table(
            ["model", "versions", "channels"],
            [
                (
                    skill.model,
                    skill.version_count,
                    ", ".join(_channel_text(skill, name, short=True) for name in skill.channels),
                )
                for skill in skills
            ],
            empty="no skills yet: looper consolidate TENANT/INSTANCE --wait",
        )


@app.command()
def show(instance: Instance, json: Json = False) -> None:
    """Show a skill: its channels, its versions and the measurements of the gate.

    The verdict of a version is passed, or undecided: then it is in channel canary until you promote it. The table has
    these measurements for each version: accuracy on new held-out tasks, before and after; on held-out tasks of earlier
    sessions, of the best version and after; loss on tasks of other instances, of the base model and of the version;
    fractions of repeated and of invalid tool calls; change of the logits on the canary prompts; and the error of the
    conversion to plain LoRA. With --json, all measurements are printed.

    Example: `looper skills show acme/helpdesk`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name = InstanceName.parse(instance)
    skill = open_control_plane().get_skill(name, NUM_SHOWN_VERSIONS)
    if json:
        emit_json(skill)
        return
    for channel in skill.channels:
        typer.echo(_channel_text(skill, channel))
    for version in skill.versions:
        if version.revoked_at:
            typer.echo(f"{version.digest[:12]} was revoked at {version.revoked_at:%F %T}")
    table(
        ["version", "published", "rank", "starts from", "verdict", *_MEASUREMENTS],
        [
            (
                version.digest[:12],
                f"{version.created_at:%F %T}",
                version.rank,
                version.parent and version.parent[:12],
                version.verdict.decision,
                *_measurements(version.verdict),
            )
            for version in skill.versions
        ],
        empty=f"{instance} has no version yet: looper consolidate {instance} --wait",
    )
    if skill.version_count > len(skill.versions):
        typer.echo(f"the newest {len(skill.versions)} of {skill.version_count} versions")


def _channel_text(skill: "SkillInfo", channel: str, *, short: bool = False) -> str:
    digest, share = skill.channels[channel], skill.shares.get(channel)
    return f"{channel} -> {digest[:12] if short else digest}" + (f" for {share:.0%}" if share else "")


_MEASUREMENTS = ("new", "earlier", "control", "loops", "tool errors", "canary", "conversion error")


def _measurements(verdict: "GateVerdict") -> tuple[str | None, ...]:
    """Return the measurements of the gate, each before and after; None where it was not measured."""
    new, old, earlier, control = verdict.candidate, verdict.current, verdict.earlier, verdict.control
    return (
        _accuracy_or_loss(old, new),
        None if earlier is None else _accuracy_or_loss(earlier.reference, earlier.candidate),
        None if control is None else f"loss {control.reference.loss:.2f} -> {control.candidate.loss:.2f}",
        _fractions(old.loops, new.loops),
        _fractions(old.tool_errors, new.tool_errors),
        None if verdict.canary is None else f"{verdict.canary:.3f}",
        None if verdict.conversion_error is None else f"{verdict.conversion_error:.3f}",
    )


def _accuracy_or_loss(before: "Scores", after: "Scores") -> str:
    """Return the change of the action accuracy, or of the loss where the tasks have no actions."""
    return _fractions(before.accuracy, after.accuracy) or f"loss {before.loss:.2f} -> {after.loss:.2f}"


def _fractions(before: float | None, after: float | None) -> str | None:
    return None if before is None or after is None else f"{before:.2f} -> {after:.2f}"


@app.command()
def promote(
    instance: Instance,
    digest: Digest,
    channel: Channel = "prod",
    share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Canary share: fraction of the requests for the plain name that this channel answers."
        ),
    ] = 0.0,
    expected: Expected = None,
) -> None:
    """Point a channel to a version, from the next request on.

    With a share, the channel is a canary: it answers this fraction of the requests for `acme/helpdesk`, and prod
    answers the rest.

    Example: `looper skills promote acme/helpdesk 4be1d2 --channel canary --share 0.1`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    full_digest = _full_digest(control_plane, name, digest)
    control_plane.promote(name, channel, full_digest, share, _full_digest_or_none(control_plane, name, expected))
    typer.echo(f"{name}@{channel} -> {full_digest}" + (f" for {share:.0%}" if share else ""))


@app.command()
def rollback(instance: Instance, channel: Channel = "prod", expected: Expected = None) -> None:
    """Point a channel to the version before the one it points to.

    Example: `looper skills rollback acme/helpdesk`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    digest = control_plane.rollback(name, channel, _full_digest_or_none(control_plane, name, expected))
    typer.echo(f"{name}@{channel} -> {digest}")


@app.command()
def drop(
    instance: Instance,
    channel: Annotated[str, typer.Argument(help="Channel to drop, such as canary.")],
    expected: Expected = None,
) -> None:
    """Drop a channel. Channel prod answers its share of the requests again.

    Example: `looper skills drop acme/helpdesk canary`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    control_plane.drop(name, channel, _full_digest_or_none(control_plane, name, expected))
    typer.echo(f"{name}@{channel} was dropped")


@app.command()
def revoke(instance: Instance, digest: Digest) -> None:
    """Serve a version no more, by any name. Answers that are under way stop.

    Where prod pointed to it, it falls back to the newest version before it; other channels go.

    Example: `looper skills revoke acme/helpdesk 4be1d2`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    full_digest = _full_digest(control_plane, name, digest)
    moved = control_plane.revoke(name, full_digest)
    typer.echo(f"{full_digest} is revoked")
    for channel, now in moved.items():
        typer.echo(f"{name}@{channel} -> {now or 'nothing: it is not served until you promote a version'}")


@app.command()
def export(
    instance: Instance,
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    digest: Annotated[str | None, typer.Option(help="Digest of the version. Default: the version of prod.")] = None,
) -> None:
    """Write the verified files of a version into a folder that PEFT and vLLM can load.

    Example: `looper skills export acme/helpdesk --out helpdesk-adapter`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.errors import InvalidInput
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    full_digest = _full_digest(control_plane, name, digest) if digest else _prod_digest(control_plane, name)
    if out.exists():
        raise InvalidInput(f"--out {out} exists already: name a folder that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    # The folder gets its name once everything in it is verified.
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        partial = Path(folder, "adapter")
        partial.mkdir()
        control_plane.export(name, full_digest, partial)
        partial.rename(out)
    typer.echo(f"{full_digest} is in {out}")


def _prod_digest(control_plane: "ControlPlane", instance: "InstanceName") -> str:
    from looper.platform.domain.errors import NotFound

    digest = control_plane.get_skill(instance, 1).channels.get("prod")
    if digest is None:
        raise NotFound(f"model {instance} does not exist")
    return digest


def _full_digest_or_none(control_plane: "ControlPlane", instance: "InstanceName", digest: str | None) -> str | None:
    return _full_digest(control_plane, instance, digest) if digest else None


def _full_digest(control_plane: "ControlPlane", instance: "InstanceName", digest: str) -> str:
    from looper.platform.domain.errors import InvalidInput, NotFound

    found = [version.digest for version in control_plane.list_versions(instance) if version.digest.startswith(digest)]
    if not found:
        raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
    if len(found) > 1:
        raise InvalidInput(f"{digest} is the beginning of {len(found)} versions of {instance}: give more characters")
    return found[0]
