"""What the control plane says, and what ``--json`` prints. Apart from the domain's types, so that each may change."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field

from looper.platform.domain.consolidation import (
    LOWEST_PRIORITY,
    Consolidation,
    ConsolidationState,
    GateVerdict,
    Recipe,
    TrainingProgress,
    Version,
)
from looper.platform.domain.names import PROD, InstanceName

if TYPE_CHECKING:  # the client has these models and no database
    from looper.platform.catalog import Catalog, Event


class _ApiModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InstanceInfo(_ApiModel):
    """One deployed agent: what was ingested and what it serves."""

    name: str
    batches: int
    trajectories: int
    prod: str | None = Field(description="digest that the instance's plain name answers with")

    @classmethod
    def of(cls, catalog: "Catalog", instance: InstanceName) -> "InstanceInfo":
        batches = catalog.batches(instance)
        return cls(
            name=str(instance),
            batches=len(batches),
            trajectories=sum(batch.trajectories for batch in batches),
            prod=catalog.channel(instance, PROD),
        )


class ConsolidationRequest(_ApiModel):
    """Instances (without the tenant's name) to consolidate as one request."""

    # Failing fast, because an error for each of many wrong items takes seconds to write.
    instances: Annotated[list[str], FailFast()] = Field(min_length=1)
    recipe: Recipe | None = Field(None, description="default: the cluster's own")
    priority: int = Field(
        0, ge=LOWEST_PRIORITY, le=0, description="below all others' work; above it only the operator puts anything"
    )


class ConsolidationInfo(_ApiModel):
    id: str
    instance: str
    state: ConsolidationState
    base: str
    recipe: Recipe
    batches: int
    parent: str | None = Field(description="digest of the version it starts from; decided when work on it begins")
    priority: int
    attempts: int = Field(description="how many trainers have taken it up")
    reason: str | None
    verdict: GateVerdict | None
    digest: str | None
    progress: TrainingProgress | None
    created_at: datetime = Field(description="when it was submitted")
    started_at: datetime | None = Field(description="when work on it began")
    ended_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, job: Consolidation) -> "ConsolidationInfo":
        fields = job.model_dump(exclude={"owner", "instance", "batches"})
        return cls(instance=str(job.instance), batches=len(job.batches), **fields)


class EventInfo(_ApiModel):
    at: datetime
    what: str

    @classmethod
    def of(cls, event: "Event") -> "EventInfo":
        return cls(at=event.at, what=event.what)


class VersionInfo(_ApiModel):
    digest: str
    base: str
    base_revision: str
    rank: int
    parent: str | None
    consolidation: str
    verdict: GateVerdict
    created_at: datetime
    revoked_at: datetime | None = Field(description="since when it is served no more")

    @classmethod
    def of(cls, version: Version) -> "VersionInfo":
        return cls(**version.model_dump(exclude={"instance"}))


class SkillInfo(_ApiModel):
    """An instance's channels and versions, newest first."""

    model: str = Field(description="the name an OpenAI client calls it by")
    channels: dict[str, str]
    shares: dict[str, float] = Field(description="of the requests for the plain name, where a channel takes any")
    versions: list[VersionInfo]

    @classmethod
    def of(cls, catalog: "Catalog", instance: InstanceName) -> "SkillInfo":
        return cls(
            model=str(instance),
            channels=catalog.channels(instance),
            shares=catalog.shares(instance),
            versions=[VersionInfo.of(version) for version in catalog.versions(instance)],
        )


class ChannelPointer(_ApiModel):
    digest: str
    share: float = Field(
        0.0, ge=0, le=1, description="of the requests for the plain name, which it answers from now on"
    )


class VersionTraffic(_ApiModel):
    """What one version of a skill with a canary has answered since the gateway that was asked began."""

    requests: int
    failed: int
    tokens: int = Field(description="generated")
    first_token_s: dict[str, float] | None = Field(description="p50 and p95, of streamed answers")
    seconds: dict[str, float] | None = Field(description="p50 and p95, until the answer was whole")


class ErrorDetail(_ApiModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(_ApiModel):
    """The shape of OpenAI's errors."""

    error: ErrorDetail
