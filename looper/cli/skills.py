"""``looper skills``: shows versions, moves channels and exports adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, table

if TYPE_CHECKING:
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
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

NUM_LISTED_VERSIONS = 10
"""Number of versions of each skill in a list."""

NUM_SHOWN_VERSIONS = 1000
"""Number of versions that are shown of one skill."""


@app.command("list")
def list_(json: Json = False) -> None:
    """List the skills and the versions that their channels point to. With --json, each has its 10 newest versions.

    Example: `looper skills list`
    """
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
    from looper.platform.catalog.pages import iterate_pages
    from looper.platform.settings import load_settings

    catalog = Catalog.open(load_settings())
    rows = iterate_pages(
        lambda after, limit: catalog.page_skills(after=after, limit=limit, max_versions=NUM_LISTED_VERSIONS),
        lambda row: row.instance,
    )
    skills = [SkillInfo.from_summary(row) for row in rows]
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

    The table has these measurements for each version: accuracy on new held-out tasks and on held-out tasks of earlier
    sessions, before and after; loss on tasks of other instances, of the base model and of the version; fractions of
    repeated and of invalid tool calls; change of the logits on the canary prompts; and the error of the conversion to
    plain LoRA. With --json, all measurements are printed.

    Example: `looper skills show acme/helpdesk`
    """
    from looper.platform.api.models import SkillInfo
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    catalog, name = Catalog.open(load_settings()), InstanceName.parse(instance)
    skill = SkillInfo.from_summary(catalog.get_skill(name, max_versions=NUM_SHOWN_VERSIONS))
    if json:
        emit_json(skill)
        return
    for channel in skill.channels:
        typer.echo(_channel_text(skill, channel))
    for version in skill.versions:
        if version.revoked_at:
            typer.echo(f"{version.digest[:12]} was revoked at {version.revoked_at:%F %T}")
    table(
        ["version", "published", "rank", "starts from", *_MEASUREMENTS],
        [
            (
                version.digest[:12],
                f"{version.created_at:%F %T}",
                version.rank,
                version.parent and version.parent[:12],
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
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    full_digest = _full_digest(catalog, name, digest)
    adapters.promote(
        catalog,
        ObjectStore.open(settings),
        name,
        channel,
        full_digest,
        share,
        expected=_full_digest(catalog, name, expected) if expected else None,
    )
    typer.echo(f"{name}@{channel} -> {full_digest}" + (f" for {share:.0%}" if share else ""))


@app.command()
def rollback(instance: Instance, channel: Channel = "prod", expected: Expected = None) -> None:
    """Point a channel to the version before the one it points to.

    Example: `looper skills rollback acme/helpdesk`
    """
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    digest = adapters.rollback(
        catalog,
        ObjectStore.open(settings),
        name,
        channel,
        expected=_full_digest(catalog, name, expected) if expected else None,
    )
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
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    name, catalog = InstanceName.parse(instance), Catalog.open(load_settings())
    catalog.delete_channel(name, channel, expected=_full_digest(catalog, name, expected) if expected else None)
    typer.echo(f"{name}@{channel} was dropped")


@app.command()
def revoke(instance: Instance, digest: Digest) -> None:
    """Serve a version no more, by any name. Answers that are under way stop.

    Where prod pointed to it, it falls back to the newest version before it; other channels go.

    Example: `looper skills revoke acme/helpdesk 4be1d2`
    """
    from looper.platform import revocation
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    full_digest = _full_digest(catalog, name, digest)
    moved = revocation.revoke_version(catalog, ObjectStore.open(settings), name, full_digest)
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
    from looper.platform import adapters
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import InvalidInput
    from looper.platform.domain.names import InstanceName, ModelName
    from looper.platform.objectstore import ObjectStore
    from looper.platform.settings import load_settings

    settings, name = load_settings(), InstanceName.parse(instance)
    catalog = Catalog.open(settings)
    full_digest = _full_digest(catalog, name, digest) if digest else catalog.resolve(ModelName(name))
    files = adapters.fetch(ObjectStore.open(settings), name.tenant, full_digest)
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise InvalidInput(f"--out {out} exists already: name a folder that does not") from error
    for file, content in files.to_dict().items():
        (out / file).write_bytes(content)
    typer.echo(f"{full_digest} is in {out}")


def _full_digest(catalog: "Catalog", instance: "InstanceName", digest: str) -> str:
    from looper.platform.domain.errors import InvalidInput, NotFound

    found = [version.digest for version in catalog.list_versions(instance) if version.digest.startswith(digest)]
    if not found:
        raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
    if len(found) > 1:
        raise InvalidInput(f"{digest} is the beginning of {len(found)} versions of {instance}: give more characters")
    return found[0]
