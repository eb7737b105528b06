"""``looper skills``"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, table

if TYPE_CHECKING:
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import GateVerdict, Scores
    from looper.platform.domain.names import InstanceName

app = typer.Typer(help="What is served: channels and the versions they point to.", no_args_is_help=True)

Instance = Annotated[str, typer.Argument(metavar="TENANT/INSTANCE")]
Digest = Annotated[str, typer.Argument(help="of the version, or its first letters")]
Channel = Annotated[str, typer.Option(help="The channel to move.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the skills and what their channels point to.

    Example: `looper skills list`
    """
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    skills = [skill for one in catalog.instances() if (skill := SkillInfo.of(catalog, one)).versions]
    if json:
        emit_json(skills)
    else:
        table(
            ["model", "versions", "channels"],
            [
                (
                    skill.model,
                    len(skill.versions),
                    ", ".join(_pointed(skill, name, short=True) for name in skill.channels),
                )
                for skill in skills
            ],
            empty="no skills yet: looper consolidate TENANT/INSTANCE --wait",
        )


@app.command()
def show(instance: Instance, json: Json = False) -> None:
    """Show a skill: its channels, its versions and the gate's numbers.

    Of each version: the share of right actions on held-out tasks, new and of earlier sessions, before and after; the
    loss on other instances' tasks, of the bare base and after; calls that repeat the one before, and invalid calls;
    how far it moves the canary's logits; and what was lost in conversion to plain LoRA. With --json all of them.

    Example: `looper skills show acme/helpdesk`
    """
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    skill = SkillInfo.of(Catalog.open(load_settings()), InstanceName.parse(instance))
    if json:
        emit_json(skill)
        return
    for name in skill.channels:
        typer.echo(_pointed(skill, name))
    for one in skill.versions:
        if one.revoked_at:
            typer.echo(f"{one.digest[:12]} was revoked at {one.revoked_at:%F %T}")
    table(
        ["version", "made", "rank", "starts from", *_NUMBERS],
        [
            (
                one.digest[:12],
                f"{one.created_at:%F %T}",
                one.rank,
                one.parent and one.parent[:12],
                *_numbers(one.verdict),
            )
            for one in skill.versions
        ],
        empty=f"{instance} has no version yet: looper consolidate {instance} --wait",
    )


def _pointed(skill: "SkillInfo", channel: str, *, short: bool = False) -> str:
    digest, share = skill.channels[channel], skill.shares.get(channel)
    return f"{channel} -> {digest[:12] if short else digest}" + (f" for {share:.0%}" if share else "")


_NUMBERS = ("new", "earlier", "control", "loops", "tool errors", "canary", "conversion error")


def _numbers(verdict: "GateVerdict") -> tuple[str | None, ...]:
    """The gate's numbers, each as what it was before and what it became; None where it was not taken."""
    new, old, earlier, control = verdict.candidate, verdict.current, verdict.earlier, verdict.control
    return (
        _change(old, new),
        None if earlier is None else _change(earlier.reference, earlier.candidate),
        None if control is None else f"loss {control.reference.loss:.2f} -> {control.candidate.loss:.2f}",
        _shares(old.loops, new.loops),
        _shares(old.tool_errors, new.tool_errors),
        None if verdict.canary is None else f"{verdict.canary:.3f}",
        None if verdict.conversion_error is None else f"{verdict.conversion_error:.3f}",
    )


def _change(before: "Scores", after: "Scores") -> str:
    """Of the action accuracy, or of the loss where there was no action."""
    return _shares(before.accuracy, after.accuracy) or f"loss {before.loss:.2f} -> {after.loss:.2f}"


def _shares(before: float | None, after: float | None) -> str | None:
    return None if before is None or after is None else f"{before:.2f} -> {after:.2f}"


@app.command()
def promote(
    instance: Instance,
    digest: Digest,
    channel: Channel = "prod",
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the requests for the plain name, what this channel answers.")
    ] = 0.0,
) -> None:
    """Point a channel to a version. The next request is answered by it.

    With a share it is a canary: `acme/helpdesk` is answered by it as often as that, and by prod otherwise.

    Example: `looper skills promote acme/helpdesk 4be1d2 --channel canary --share 0.1`
    """
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    whole = _whole(catalog, name, digest)
    adapters.promote(catalog, ObjectStore.open(settings), name, channel, whole, share)
    typer.echo(f"{name}@{channel} -> {whole}" + (f" for {share:.0%}" if share else ""))


@app.command()
def rollback(instance: Instance, channel: Channel = "prod") -> None:
    """Point a channel to the version before the one it points to.

    Example: `looper skills rollback acme/helpdesk`
    """
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    digest = adapters.rollback(Catalog.open(settings), ObjectStore.open(settings), name, channel)
    typer.echo(f"{name}@{channel} -> {digest}")


@app.command()
def drop(instance: Instance, channel: Annotated[str, typer.Argument(help="such as canary")]) -> None:
    """Take a channel away. What it answered of the plain name's requests, prod answers again.

    Example: `looper skills drop acme/helpdesk canary`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    name = InstanceName.parse(instance)
    Catalog.open(load_settings()).drop(name, channel)
    typer.echo(f"{name}@{channel} is gone")


@app.command()
def revoke(instance: Instance, digest: Digest) -> None:
    """Serve a version no more, by any name. Answers that are under way stop.

    Where prod pointed to it, it falls back to the newest version before it; other channels go.

    Example: `looper skills revoke acme/helpdesk 4be1d2`
    """
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    name, catalog = InstanceName.parse(instance), Catalog.open(load_settings())
    whole = _whole(catalog, name, digest)
    moved = catalog.revoke(name, whole)
    typer.echo(f"{whole} is revoked")
    for channel, now in moved.items():
        typer.echo(f"{name}@{channel} -> {now or 'nothing: it is not served until a version is promoted'}")


@app.command()
def export(
    instance: Instance,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    digest: Annotated[str | None, typer.Option(help="A version; default: what prod points to.")] = None,
) -> None:
    """Write a version's files, verified, as PEFT and vLLM load them.

    Example: `looper skills export acme/helpdesk --out helpdesk-adapter`
    """
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import InvalidInput
    from looper.platform.domain.names import InstanceName, ModelName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    whole = _whole(catalog, name, digest) if digest else catalog.resolve(ModelName(name))
    files = adapters.fetch(ObjectStore.open(settings), name.tenant, whole)
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise InvalidInput(f"--out {out} exists already: name a folder that does not") from error
    for file, content in files.by_name().items():
        (out / file).write_bytes(content)
    typer.echo(f"{whole} is in {out}")


def _whole(catalog: "Catalog", instance: "InstanceName", digest: str) -> str:
    from looper.platform.domain.errors import InvalidInput, NotFound

    found = [version.digest for version in catalog.versions(instance) if version.digest.startswith(digest)]
    if not found:
        raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
    if len(found) > 1:
        raise InvalidInput(f"{digest} is the beginning of {len(found)} versions of {instance}: give more of it")
    return found[0]
