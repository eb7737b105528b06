"""The routes of ``/api/v1``. All of them act for the tenant of the key that was sent, and see that tenant only."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, status
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from looper.platform import adapters
from looper.platform.api.key_first import key_first, read_body
from looper.platform.api.models import (
    ChannelPointer,
    ConsolidationInfo,
    ConsolidationRequest,
    ErrorBody,
    EventInfo,
    InstanceInfo,
    SkillInfo,
)
from looper.platform.api.submission import submit
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Version
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.tenancy import authenticate
from looper.platform.trajectories.ingest import ingest_bytes
from looper.platform.trajectories.report import IngestReport

MAX_UPLOAD = 256 * 2**20
"""Bytes of one POST of trajectories."""

_bearer = HTTPBearer(auto_error=False, description="a tenant's key: looper tenant key TENANT")


def control_plane(
    settings: Settings, catalog: Catalog, store: ObjectStore, bring: Callable[[Version], None] = lambda version: None
) -> APIRouter:
    """The router to mount at the root of an application, which takes ``answer_errors`` to answer its errors.

    ``bring`` is called with a version before a channel is pointed to it, so that it is where it will be asked for.
    """

    async def find_tenant(request: Request) -> str:
        bearer = await _bearer(request)
        return await run_in_threadpool(authenticate, catalog, bearer.credentials if bearer else None)

    async def tenant_of(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
        """What the route has found. The bearer is named for the document."""
        return str(request.state.tenant)

    Tenant = Annotated[str, Depends(tenant_of)]  # noqa: N806 (a type)

    def named(tenant: str, instance: str) -> InstanceName:
        return InstanceName(tenant, check_name(instance, "instance"))

    def own(tenant: str, id: str) -> Consolidation:
        missing = NotFound(f"consolidation {id} does not exist")
        try:
            job = catalog.consolidation(id)
        except NotFound as error:
            raise missing from error
        if job.instance.tenant != tenant:
            raise missing
        return job

    router = APIRouter(
        prefix="/api/v1",
        route_class=key_first(find_tenant),
        responses={code: {"model": ErrorBody} for code in (400, 401, 404, 409, 413, 503)},
    )

    @router.get("/instances", summary="The tenant's instances")
    def list_instances(tenant: Tenant) -> list[InstanceInfo]:
        return [InstanceInfo.of(catalog, instance) for instance in catalog.instances(tenant)]

    @router.get("/instances/{instance}", summary="One instance")
    def show_instance(tenant: Tenant, instance: str) -> InstanceInfo:
        return InstanceInfo.of(catalog, named(tenant, instance))

    @router.post("/instances/{instance}/trajectories", summary="Ingest a file of trajectories")
    async def ingest(
        tenant: Tenant,
        instance: str,
        request: Request,
        name: Annotated[str, Query(description="the file's name, for the report", max_length=255)] = "upload",
        format: Annotated[str, Query(description="a format's name, or auto")] = "auto",
    ) -> IngestReport:
        """The body is the file as it is. The instance is made if it is new; the same file twice changes nothing."""
        target = named(tenant, instance)
        advice = f"{name} has more than {MAX_UPLOAD // 2**20} MiB: split it into several files"
        content = await read_body(request, MAX_UPLOAD, advice)
        return await run_in_threadpool(ingest_bytes, name, content, target, format, catalog=catalog, store=store)

    @router.post("/consolidations", status_code=status.HTTP_202_ACCEPTED, summary="Submit consolidations")
    def consolidate(tenant: Tenant, submission: ConsolidationRequest) -> list[ConsolidationInfo]:
        instances = [named(tenant, instance) for instance in submission.instances]
        jobs = submit(catalog, settings, instances, submission.recipe, submission.priority)
        return [ConsolidationInfo.of(job) for job in jobs]

    @router.get("/consolidations", summary="The tenant's consolidations, newest first")
    def list_consolidations(
        tenant: Tenant, instance: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[ConsolidationInfo]:
        only = named(tenant, instance) if instance else None
        return [ConsolidationInfo.of(job) for job in catalog.consolidations(tenant, only, limit)]

    @router.get("/consolidations/{id}", summary="One consolidation")
    def show_consolidation(tenant: Tenant, id: str) -> ConsolidationInfo:
        return ConsolidationInfo.of(own(tenant, id))

    @router.get("/consolidations/{id}/events", summary="What happened to a consolidation")
    def consolidation_events(tenant: Tenant, id: str) -> list[EventInfo]:
        return [EventInfo.of(event) for event in catalog.events(consolidation=own(tenant, id).id)]

    @router.post("/consolidations/{id}/cancel", summary="Stop a consolidation at whatever stage it is")
    def cancel(tenant: Tenant, id: str) -> ConsolidationInfo:
        catalog.cancel(own(tenant, id).id)
        return ConsolidationInfo.of(own(tenant, id))

    @router.get("/skills", summary="The tenant's skills")
    def list_skills(tenant: Tenant) -> list[SkillInfo]:
        skills = (SkillInfo.of(catalog, instance) for instance in catalog.instances(tenant))
        return [skill for skill in skills if skill.versions]

    @router.get("/skills/{instance}", summary="One skill: its channels and versions")
    def show_skill(tenant: Tenant, instance: str) -> SkillInfo:
        return SkillInfo.of(catalog, named(tenant, instance))

    @router.put("/skills/{instance}/channels/{channel}", summary="Promote: point a channel to a version")
    def promote(tenant: Tenant, instance: str, channel: str, pointer: ChannelPointer) -> SkillInfo:
        target = named(tenant, instance)
        adapters.promote(catalog, store, target, channel, pointer.digest, pointer.share, bring)
        return SkillInfo.of(catalog, target)

    @router.delete("/skills/{instance}/channels/{channel}", summary="Take a channel away")
    def drop(tenant: Tenant, instance: str, channel: str) -> SkillInfo:
        """Its requests are answered by ``prod`` again. A skill without ``prod`` is not served."""
        target = named(tenant, instance)
        catalog.drop(target, channel)
        return SkillInfo.of(catalog, target)

    @router.post("/skills/{instance}/channels/{channel}/rollback", summary="Point a channel to the version before")
    def rollback(tenant: Tenant, instance: str, channel: str) -> SkillInfo:
        target = named(tenant, instance)
        adapters.rollback(catalog, store, target, channel, bring)
        return SkillInfo.of(catalog, target)

    @router.post("/skills/{instance}/versions/{digest}/revoke", summary="Serve a version no more")
    def revoke(tenant: Tenant, instance: str, digest: str) -> SkillInfo:
        """Answers that are under way stop, too. ``prod`` falls back to the version before; other channels go."""
        target = named(tenant, instance)
        catalog.revoke(target, digest)
        return SkillInfo.of(catalog, target)

    return router
