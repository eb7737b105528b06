"""Routes of skills: list, show, promote, drop, roll back and revoke."""

from collections.abc import Callable
from typing import Annotated

import anyio
from fastapi import APIRouter, Path, Query, Response
from fastapi.routing import APIRoute

from looper.platform import adapters, revocation
from looper.platform.api.authenticated_route import AnyTenant, Instance, needs
from looper.platform.api.downloads import Downloads
from looper.platform.api.models import ChannelPointer, SkillInfo, VersionInfo
from looper.platform.api.pages import INSTANCE, TIME_AND_DIGEST, Cursor, page_response, parse_cursor
from looper.platform.catalog import Catalog
from looper.platform.catalog.rows import version_not_found
from looper.platform.domain.adapter_digest import FILE_NAMES
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope
from looper.platform.domain.version import Version
from looper.platform.objectstore import ObjectStore, keys

Expected = Annotated[
    str | None,
    Query(max_length=64, description="Digest that the channel must point to now. Otherwise 409"),
]
"""Parameter type: the version that the client has seen."""

Channel = Annotated[str, Path(max_length=63)]
"""Parameter type: the channel that ``{channel}`` in the path names."""

MAX_LISTED_VERSIONS = 10
"""Maximum number of versions of each skill in a list of skills."""

MAX_SHOWN_VERSIONS = 100
"""Maximum number of versions of one skill that is shown."""


def skill_router(
    catalog: Catalog,
    store: ObjectStore,
    prefetch: Callable[[Version], None],
    route_class: type[APIRoute],
    threads: anyio.CapacityLimiter,
) -> APIRouter:
    """Return the routes under ``/skills``.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster; adapters are verified there before a channel points to them.
        prefetch: Called with a version just before a channel is pointed to it.
        route_class: Class of the routes, which authenticates requests.
        threads: Threads of the control plane.

    Returns:
        The router.
    """
    router = APIRouter(prefix="/skills", route_class=route_class)
    downloads = Downloads(store, threads)
    reads, changes = [needs(Scope.SUBMIT)], [needs(Scope.ADMIN)]

    def show(instance: InstanceName) -> SkillInfo:
        return SkillInfo.from_summary(catalog.get_skill(instance, max_versions=MAX_SHOWN_VERSIONS))

    @router.get("", summary="List skills by name, in pages", response_model=list[SkillInfo], dependencies=reads)
    def list_skills(
        tenant: AnyTenant, limit: Annotated[int, Query(ge=1, le=100)] = 100, cursor: Cursor = None
    ) -> Response:
        """Each with its newest versions. The header `Link` has the next page.

        An operator's key that names no tenant lists those of all tenants.
        """
        last = parse_cursor(cursor, INSTANCE)
        after = last and InstanceName(*last)
        found = catalog.page_skills(tenant, after=after, limit=limit + 1, max_versions=MAX_LISTED_VERSIONS)
        return page_response(found, limit, SkillInfo.from_summary, lambda skill: tuple(skill.instance))

    @router.get("/{instance}", summary="Show a skill: its channels and newest versions", dependencies=reads)
    def show_skill(instance: Instance) -> SkillInfo:
        return show(instance)

    @router.get(
        "/{instance}/versions",
        summary="List the versions of a skill, newest first, in pages",
        response_model=list[VersionInfo],
        dependencies=reads,
    )
    def list_versions(
        instance: Instance, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: Cursor = None
    ) -> Response:
        """The header `Link` has the next page."""
        found = catalog.list_versions(instance, after=parse_cursor(cursor, TIME_AND_DIGEST), limit=limit + 1)
        return page_response(
            found, limit, VersionInfo.from_version, lambda version: (version.created_at, version.digest)
        )

    @router.get(
        "/{instance}/versions/{digest}/files/{file}",
        summary="Download a file of a version",
        dependencies=changes,
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def download(
        instance: Instance, digest: Annotated[str, Path(max_length=64)], file: Annotated[str, Path(max_length=64)]
    ) -> Response:
        """The version's digest is the SHA-256 of what `sha256sum` prints for its three files, sorted by name."""
        known = next((version for version in catalog.list_versions(instance) if version.digest == digest), None)
        if known is None:
            raise version_not_found(instance, digest)
        if file not in FILE_NAMES:
            raise NotFound(f"version {digest} has no file {file[:64]}: its files are {', '.join(FILE_NAMES)}")
        return downloads.respond(instance.tenant, keys.adapter(instance.tenant, digest, file))

    @router.put("/{instance}/channels/{channel}", summary="Promote: point a channel to a version", dependencies=changes)
    def promote(instance: Instance, channel: Channel, pointer: ChannelPointer) -> SkillInfo:
        adapters.promote(
            catalog, store, instance, channel, pointer.digest, pointer.share, prefetch, expected=pointer.expected
        )
        return show(instance)

    @router.delete("/{instance}/channels/{channel}", summary="Drop a channel", dependencies=changes)
    def drop(instance: Instance, channel: Channel, expected: Expected = None) -> SkillInfo:
        """Channel `prod` answers its share of the requests again. A skill without `prod` is not served."""
        catalog.delete_channel(instance, channel, expected=expected)
        return show(instance)

    @router.post(
        "/{instance}/channels/{channel}/rollback", summary="Point a channel to the version before", dependencies=changes
    )
    def rollback(instance: Instance, channel: Channel, expected: Expected = None) -> SkillInfo:
        adapters.rollback(catalog, store, instance, channel, prefetch, expected=expected)
        return show(instance)

    @router.post(
        "/{instance}/versions/{digest}/revoke",
        summary="Revoke a version: it is never served again",
        dependencies=changes,
    )
    def revoke(instance: Instance, digest: Annotated[str, Path(max_length=64)]) -> SkillInfo:
        """Running streams of the version stop. `prod` falls back to the version before; other channels are dropped."""
        revocation.revoke_version(catalog, store, instance, digest)
        return show(instance)

    return router
