"""What ``looper upgrade`` will do: what runs, compared with what is installed and configured here."""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from looper.cluster import control_loop
from looper.cluster.deployment_versions import describe_deployment
from looper.cluster.migration import find_conflict, read_deployed
from looper.platform.catalog import Catalog
from looper.platform.catalog.schema import SchemaVersion, newest_schema
from looper.platform.domain.cluster_report import DeployedFrom
from looper.platform.domain.states import ConsolidationState
from looper.platform.settings import Settings
from looper.serve.deployment.ray_app import list_pools, pool_name

Place = Literal["existing ray", "private ray", "none"]
"""What Looper runs on."""

_OF_THE_PROXIES = ("serve.host", "serve.port", "serve.tls_cert", "serve.tls_key")
_NO_REQUEST = "none fails"
_RESTART = "all fail from the stop until the new one answers"


class UpgradeStep(BaseModel):
    """One part of an upgrade."""

    model_config = ConfigDict(frozen=True)

    part: str
    """What changes: the catalog, Looper, a setting, a deployment of Ray Serve, or training."""
    before: str
    """How it is. Empty: there is none, or it is not known."""
    after: str
    """How it will be."""
    how: str
    """What happens."""
    requests: str
    """What clients notice. Empty: nothing that the other parts do not say."""


class UpgradePlan(BaseModel):
    """An upgrade."""

    model_config = ConfigDict(frozen=True)

    place: Place
    """What Looper runs on."""
    refusal: str
    """Why ``looper upgrade`` will not do it, and the way out. Empty: it will."""
    steps: list[UpgradeStep]
    """Its parts."""
    has_work: bool
    """Whether anything is to be done."""


def make_plan(settings: Settings, place: Place) -> UpgradePlan:
    """Compare what runs with what is installed and configured here.

    Args:
        settings: Settings here.
        place: What Looper runs on.

    Returns:
        The plan. It changes nothing.

    Raises:
        InvalidInput: The catalog's URL is wrong.
        StoreUnavailable: The catalog does not answer.
    """
    with closing(Catalog.open(settings, older="accept")) as catalog:
        schema = catalog.read_schema()
        in_training = catalog.count_consolidations().get(ConsolidationState.TRAINING, 0) if schema.revision else 0
    before = None if place == "none" else read_deployed(settings)
    after = describe_deployment(settings)
    steps = [_plan_schema(schema, newest_schema())]
    if place != "none":
        steps.append(_plan_looper(before, after))
        steps += _plan_settings(before, after)
        steps += (
            _plan_deployments(settings, before, after) if place == "existing ray" else [_plan_restart(before, after)]
        )
        steps.append(_plan_training(in_training, before, after, place))
    has_work = (schema.revision or "") < str(newest_schema().revision)
    # On a Ray that exists, an earlier upgrade may not have come to its end. What is up to date stays as it is.
    has_work |= place == "existing ray" or (place == "private ray" and before != after)
    return UpgradePlan(
        place=place, refusal=_find_refusal(settings, schema, before, after, place), steps=steps, has_work=has_work
    )


def _plan_schema(found: SchemaVersion, mine: SchemaVersion) -> UpgradeStep:
    before, after = found.revision or "", str(mine.revision)
    if before > after:
        how, after = (
            f"stays: it is of a newer release, and code since schema {found.compatible_since} may use it",
            before,
        )
    elif before == after:
        how = "stays"
    elif not before:
        how = "created"
    elif str(mine.compatible_since) <= before:
        how = f"migrated, expanded only: code since schema {mine.compatible_since} goes on with it, so you can go back"
    else:
        how = f"migrated, contracted: code before schema {mine.compatible_since} cannot use it any more"
    return UpgradeStep(part="catalog", before=before, after=after, how=how, requests=_NO_REQUEST)


def _plan_looper(before: DeployedFrom | None, after: DeployedFrom) -> UpgradeStep:
    was = before.looper if before else "an earlier release"
    how = "stays" if was == after.looper else "new code for all that runs"
    return UpgradeStep(part="looper", before=was, after=after.looper, how=how, requests="")


def _plan_settings(before: DeployedFrom | None, after: DeployedFrom) -> Iterator[UpgradeStep]:
    if before is None:
        return
    for path in sorted(before.settings.keys() | after.settings.keys()):
        was, becomes = before.settings.get(path), after.settings.get(path)
        if was != becomes:
            yield UpgradeStep(
                part=path, before=_format(was), after=_format(becomes), how="as the parts below say", requests=""
            )


def _plan_deployments(settings: Settings, before: DeployedFrom | None, after: DeployedFrom) -> Iterator[UpgradeStep]:
    versions: Mapping[str, str] = before.versions if before else {}
    pools = {pool_name(settings, base, pool): pool for base, pool in list_pools(settings)}
    for name, version in after.versions.items():
        requests = _NO_REQUEST
        if before is not None and name not in versions:
            how = "started"
        elif versions.get(name) == version:
            how = "its replicas stay; if their number changes, then in place"
        elif name in pools and not settings.serve.surge_percent:
            how = "each replica stops, and a new one starts (serve.surge_percent is 0)"
            requests = _NO_REQUEST if pools[name].replicas > 1 else "503 until the new one has started"
        else:
            how = "each replica is replaced, the new one starts before the old one stops"
            if name in pools:
                more = math.ceil(max(1, pools[name].replicas) * settings.serve.surge_percent / 100)
                how += f": room for {more} more is needed"
        yield UpgradeStep(part=name, before=versions.get(name, ""), after=version, how=how, requests=requests)
    for name in versions.keys() - after.versions.keys():
        yield UpgradeStep(
            part=name, before=versions[name], after="", how="ends once its requests have", requests=_NO_REQUEST
        )


def _plan_restart(before: DeployedFrom | None, after: DeployedFrom) -> UpgradeStep:
    if before == after:
        return UpgradeStep(part="cluster", before="", after="", how="stays", requests=_NO_REQUEST)
    how = "the private Ray ends, and another one starts with the new code and settings"
    return UpgradeStep(part="cluster", before="", after="", how=how, requests=_RESTART)


def _plan_training(count: int, before: DeployedFrom | None, after: DeployedFrom, place: Place) -> UpgradeStep:
    name = control_loop.NAME
    stays = before is not None and before.versions.get(name) == after.versions[name]
    stays &= place == "existing ray" or before == after
    how = "goes on" if stays else "saves a checkpoint and stops, then goes on from it under the new control loop"
    return UpgradeStep(part="training", before=f"{count} in training", after="the same", how=how, requests="")


def _find_refusal(
    settings: Settings, schema: SchemaVersion, before: DeployedFrom | None, after: DeployedFrom, place: Place
) -> str:
    mine = str(newest_schema().revision)
    if (schema.compatible_since or "") > mine:
        return (
            f"the catalog's schema {schema.revision} needs a release of schema {schema.compatible_since} or newer, and "
            f"this one is of schema {mine}: install the newer release"
        )
    if conflict := find_conflict(settings):
        return conflict
    if before is None or place != "existing ray":
        return ""
    was, becomes = before.settings, after.settings
    if was.get("base") != becomes.get("base"):
        return (
            f"the base model changes from {_format(was.get('base'))} to {_format(becomes.get('base'))}, and adapters "
            "are of one base: bring another Looper up beside this one, with a catalog and a store of its own"
        )
    if changed := [path for path in _OF_THE_PROXIES if was.get(path) != becomes.get(path)]:
        return (
            f"{', '.join(changed)} cannot change while Ray Serve's proxies listen: looper down, then looper up; or "
            "bring another Looper up beside this one"
        )
    return ""


def _format(value: Any) -> str:
    return "default" if value is None else str(value)
