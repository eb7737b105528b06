"""Routes of skills: list, show, promote, drop, roll back and revoke."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute

from looper.platform import adapters, revocation
from looper.platform.api.authenticated_route import Instance, Tenant, needs
from looper.platform.api.models import ChannelPointer, SkillInfo
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import Scope
from looper.platform.domain.version import Version
from looper.platform.objectstore import ObjectStore

Expected = Annotated[
    str | None,
    Query(max_length=64, description="Digest that the channel must point to now. Otherwise 409"),
]
"""Parameter type: the version that the client has seen."""


def skill_router(
    catalog: Catalog, store: ObjectStore, prefetch: Callable[[Version], None], route_class: type[APIRoute]
) -> APIRouter:
    """Return the routes under ``/skills``.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster; adapters are verified there before a channel points to them.
        prefetch: Called with a version just before a channel is pointed to it.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/skills", route_class=route_class)
    reads, changes = [needs(Scope.SUBMIT)], [needs(Scope.ADMIN)]

    @router.get("", summary="List the tenant's skills", dependencies=reads)
    def list_skills(tenant: Tenant) -> list[SkillInfo]:
        skills = (SkillInfo.from_catalog(catalog, instance) for instance in catalog.list_instances(tenant))
        return [skill for skill in skills if skill.versions]

    @router.get("/{instance}", summary="Show a skill: its channels and versions", dependencies=reads)
    def show_skill(instance: Instance) -> SkillInfo:
        return SkillInfo.from_catalog(catalog, instance)

    @router.put("/{instance}/channels/{channel}", summary="Promote: point a channel to a version", dependencies=changes)
    def promote(instance: Instance, channel: str, pointer: ChannelPointer) -> SkillInfo:
        adapters.promote(
            catalog, store, instance, channel, pointer.digest, pointer.share, prefetch, expected=pointer.expected
        )
        return SkillInfo.from_catalog(catalog, instance)

    @router.delete("/{instance}/channels/{channel}", summary="Drop a channel", dependencies=changes)
    def drop(instance: Instance, channel: str, expected: Expected = None) -> SkillInfo:
        """Channel `prod` answers its share of the requests again. A skill without `prod` is not served."""
        catalog.delete_channel(instance, channel, expected=expected)
        return SkillInfo.from_catalog(catalog, instance)

    @router.post(
        "/{instance}/channels/{channel}/rollback", summary="Point a channel to the version before", dependencies=changes
    )
    def rollback(instance: Instance, channel: str, expected: Expected = None) -> SkillInfo:
        adapters.rollback(catalog, store, instance, channel, prefetch, expected=expected)
        return SkillInfo.from_catalog(catalog, instance)

    @router.post(
        "/{instance}/versions/{digest}/revoke",
        summary="Revoke a version: it is never served again",
        dependencies=changes,
    )
    def revoke(instance: Instance, digest: str) -> SkillInfo:
        """Running streams of the version stop. `prod` falls back to the version before; other channels are dropped."""
        revocation.revoke_version(catalog, store, instance, digest)
        return SkillInfo.from_catalog(catalog, instance)

    return router
