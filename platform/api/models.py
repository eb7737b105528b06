"""Request and response types of ``/api/v1``; ``looper ... --json`` prints them too.

They are apart from the domain's types, so that each side may change without the other. The Python client imports this
module, so it imports no web framework and no database. ``tenant_models`` has those of tenants and keys, and
``upload_models`` those of uploads.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from looper.platform.domain.consolidation import MAX_PRIORITY, MIN_PRIORITY, Consolidation, TrainingProgress
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict
from looper.platform.domain.states import ConsolidationState
from looper.platform.domain.version import Version

if TYPE_CHECKING:  # the client has these models and no database
    from looper.platform.catalog import Batch, Event, InstanceOverview, SkillSummary


MAX_SUBMITTED_INSTANCES = 1000
"""Maximum number of instances in one request to consolidate."""


MAX_IDS = 100
"""Maximum number of consolidations that one request asks for by their ids."""

ReportFormat = Literal["json", "html"]
"""Form of a report on training data. ``json``: the counts. ``html``: the page for people."""


class ApiModel(BaseModel):
    """Base class of all types of ``/api/v1``. A request with an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class InstanceInfo(ApiModel):
    """One deployed agent: what was ingested and what it serves."""

    name: str = Field(description="tenant/instance")
    batches: int = Field(description="Number of ingested files")
    trajectories: int = Field(description="Number of trajectories in all batches")
    prod: str | None = Field(description="Digest of the version that channel prod points to")
    base: str | None = Field(None, description="Base model that it is on. null: the first one of the cluster")

    @classmethod
    def from_summary(cls, summary: "InstanceOverview") -> "InstanceInfo":
        """Return the public view of an instance.

        Args:
            summary: What the catalog has about it.

        Returns:
            The same.
        """
        return cls(
            name=str(summary.instance),
            batches=summary.batches,
            trajectories=summary.trajectories,
            prod=summary.prod,
            base=summary.base,
        )


class InstanceRequest(ApiModel):
    """An instance to create on a base model."""

    name: str = Field(max_length=63, description="Name of the instance, without the tenant's name")
    base: str = Field(max_length=1024, description="Base model of the cluster")


class MoveRequest(ApiModel):
    """Where to move an instance."""

    base: str = Field(max_length=1024, description="Base model of the cluster")
    recipe: Recipe | None = Field(None, description="Recipe. Default: the cluster's default recipe")
    priority: int = Field(
        0,
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="Higher priorities are claimed first. Only an operator's key may submit with a priority above 0",
    )


class BatchInfo(ApiModel):
    """One ingested file."""

    id: str = Field(description="Digest of its trajectories")
    source: str = Field(description="Name of the file")
    trajectories: int = Field(description="Number of trajectories")
    created_at: datetime = Field(description="When it was ingested")

    @classmethod
    def from_batch(cls, batch: "Batch") -> "BatchInfo":
        """Return the public view of a batch.

        Args:
            batch: What the catalog has about it.

        Returns:
            All of it.
        """
        return cls(**batch.model_dump())


class ConsolidationRequest(ApiModel):
    """Instances to consolidate in one request."""

    # FailFast, because collecting an error for each of many wrong items takes seconds.
    instances: Annotated[list[str], FailFast()] = Field(
        min_length=1,
        max_length=MAX_SUBMITTED_INSTANCES,
        description="Names of instances, without the tenant's name",
    )
    recipe: Recipe | None = Field(None, description="Recipe of all of them. Default: the cluster's default recipe")
    priority: int = Field(
        0,
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="Higher priorities are claimed first. Only an operator's key may submit with a priority above 0",
    )


class ConsolidationInfo(ApiModel):
    """One consolidation: what it trains, how far it is, and how it ended."""

    id: str = Field(description="Id of the consolidation")
    instance: str = Field(description="tenant/instance")
    state: ConsolidationState = Field(description="State; published, rejected, failed and cancelled are final")
    base: str = Field(description="Base model")
    is_move: bool = Field(False, description="Whether it moves the instance to this base model")
    recipe: Recipe = Field(description="How the adapter is trained")
    batches: int = Field(description="Number of batches whose trajectories it learns from")
    parent: str | None = Field(
        description="Digest of the version before. Training starts from it, unless it is on another base model. It is "
        "decided when work on it begins"
    )
    priority: int = Field(description="Higher priorities are claimed first")
    attempts: int = Field(description="How many trainers have claimed it")
    reason: str | None = Field(
        description="Why it was rejected, failed, cancelled or left undecided, or what it waits for"
    )
    verdict: GateVerdict | None = Field(
        description="Verdict of the gate, once there is one. If it is undecided, the version is published in the "
        "channel canary and not in prod"
    )
    digest: str | None = Field(description="Digest of the version that it published")
    progress: TrainingProgress | None = Field(description="How far training is")
    created_at: datetime = Field(description="When it was submitted")
    started_at: datetime | None = Field(description="When work on it began")
    ended_at: datetime | None = Field(description="When it reached a final state")
    updated_at: datetime = Field(description="When it last changed")
    waiting: bool = Field(description="Whether it waits for a worker. Otherwise one works on it, or it has ended")

    @classmethod
    def from_consolidation(cls, job: Consolidation) -> "ConsolidationInfo":
        """Return the public view of a consolidation.

        Args:
            job: The consolidation.

        Returns:
            Everything but the owner of its lease. The recipe has the learning rate that the trainer has chosen.
        """
        fields = job.model_dump(exclude={"owner", "instance", "batches"}) | {"recipe": job.trained_recipe}
        waiting = job.owner is None and not job.state.is_final
        return cls(instance=str(job.instance), batches=len(job.batches), waiting=waiting, **fields)


class EventInfo(ApiModel):
    """One thing that happened to an instance or a consolidation."""

    at: datetime = Field(description="When it happened")
    what: str = Field(description="What happened, in words")

    @classmethod
    def from_event(cls, event: "Event") -> "EventInfo":
        """Return the public view of an event.

        Args:
            event: The event.

        Returns:
            Its time and text.
        """
        return cls(at=event.at, what=event.what)


class VersionInfo(ApiModel):
    """One published version of a skill."""

    digest: str = Field(description="SHA-256 of the adapter's content: the name of the version")
    base: str = Field(description="Base model")
    base_revision: str = Field(description="Digest of the base model's files")
    rank: int = Field(description="LoRA rank")
    parent: str | None = Field(description="Digest of the version that training started from")
    consolidation: str = Field(description="Id of the consolidation that published it")
    verdict: GateVerdict = Field(description="Verdict of the gate")
    created_at: datetime = Field(description="When it was published")
    revoked_at: datetime | None = Field(description="When it was revoked. A revoked version is never served")

    @classmethod
    def from_version(cls, version: Version) -> "VersionInfo":
        """Return the public view of a version.

        Args:
            version: The version.

        Returns:
            Everything but its instance.
        """
        return cls(**version.model_dump(exclude={"instance"}))


class SkillInfo(ApiModel):
    """Channels and versions of an instance."""

    model: str = Field(description="Model name for OpenAI clients: tenant/instance")
    channels: dict[str, str] = Field(description="Digest that each channel points to")
    shares: dict[str, float] = Field(
        description="Canary shares, from 0 to 1: the fraction of the requests for the plain name that a channel answers"
    )
    versions: list[VersionInfo] = Field(description="The newest versions, newest first")
    version_count: int = Field(description="Number of all versions")

    @classmethod
    def from_summary(cls, summary: "SkillSummary") -> "SkillInfo":
        """Return the public view of a skill.

        Args:
            summary: What the catalog has about it.

        Returns:
            The same, with the versions that the summary has.
        """
        return cls(
            model=str(summary.instance),
            channels=summary.channels,
            shares=summary.shares,
            versions=[VersionInfo.from_version(version) for version in summary.versions],
            version_count=summary.version_count,
        )


class ChannelPointer(ApiModel):
    """Where to point a channel."""

    digest: str = Field(max_length=64, pattern="^[0-9a-f]*$", description="Digest of the version")
    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Canary share: the fraction of the requests for the plain name that the channel answers",
    )
    expected: str | None = Field(
        None, max_length=64, description="Digest that the channel must point to now. Otherwise 409"
    )


class VersionTraffic(ApiModel):
    """What one version of a skill with a canary has answered since this gateway started."""

    requests: int = Field(description="Number of requests")
    failed: int = Field(description="Number of requests that failed")
    tokens: int = Field(description="Number of generated tokens")
    first_token_s: dict[str, float] | None = Field(
        description="p50 and p95 of the seconds to the first token of streamed responses"
    )
    seconds: dict[str, float] | None = Field(description="p50 and p95 of the seconds until the response was complete")


class ErrorDetail(ApiModel):
    """One error in OpenAI's form."""

    message: str = Field(description="What is wrong and what to do about it")
    type: str = Field(description="invalid_request_error, rate_limit_error or server_error")
    param: str | None = Field(None, description="Field of the request that is wrong")
    code: str | None = Field(None, description="Stable name of the error, for programs")


class ErrorBody(ApiModel):
    """Body of an error response, in OpenAI's form."""

    error: ErrorDetail = Field(description="The error")
