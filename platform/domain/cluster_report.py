"""What the cluster looks like: its nodes, what runs on them, and what waits for what. ``looper status`` shows it.

The leading control loop writes ``ClusterReport`` into the catalog every few seconds, so that it can be read from
anywhere. The other types are rows of the catalog.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, JsonValue

from looper.platform.domain.recipe import TrainerShape


class NodeReport(BaseModel):
    """One node."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Its host name."""
    address: str
    """Its IP address."""
    roles: list[str]
    """What it may run, of the roles that the settings name."""
    cpus: float
    """CPUs that Ray schedules on it."""
    gpus: float
    """GPUs that Ray schedules on it."""
    gpu_type: str
    """Type of its GPUs. Empty: it has none, or Ray does not know it."""
    is_head: bool
    """Whether Ray's own tables are on it."""


class DeploymentReport(BaseModel):
    """One deployment of Ray Serve."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Its name."""
    status: str
    """Ray Serve's word for its condition."""
    replicas: dict[str, int]
    """Number of its replicas in each state."""
    message: str
    """What Ray Serve says of it. Empty, if all is well."""


class Wait(BaseModel):
    """Something that Ray has no room for."""

    model_config = ConfigDict(frozen=True)

    what: str
    """What waits."""
    resources: dict[str, float]
    """What it needs."""
    since: datetime
    """When that was first seen."""


class DeployedFrom(BaseModel):
    """What the application on Ray Serve was deployed from."""

    model_config = ConfigDict(frozen=True)

    looper: str
    """Which Looper, as ``installed_looper`` returns it."""
    schema_revision: str
    """Revision of the catalog's schema that it knows."""
    settings: dict[str, JsonValue]
    """Settings that are not the default, by path, without secrets and without those of one machine."""
    versions: dict[str, str]
    """What each deployment of Ray Serve is made from, as ``deployment_versions`` returns it."""


class ClusterReport(BaseModel):
    """The cluster. A field that a later release adds needs a default, since releases side by side read each other's."""

    model_config = ConfigDict(frozen=True)

    nodes: list[NodeReport]
    """Its living nodes."""
    deployments: list[DeploymentReport]
    """What Ray Serve runs of Looper."""
    waiting: list[Wait]
    """What Ray has no room for."""
    problems: list[str]
    """What nodes lack, in one line each."""
    ray: str
    """Version of Ray."""


class Leader(BaseModel):
    """The control loop that leads."""

    model_config = ConfigDict(frozen=True)

    holder: str
    """Its name."""
    since: datetime
    """When it began to lead."""


class TrainerRecord(BaseModel):
    """A trainer."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Its name, under which it leases consolidations."""
    queue_worker: str
    """Name of the queue worker that started it."""
    base: str
    """Its base model."""
    shape: TrainerShape
    """How it stores the base model."""
    node: str | None
    """Where its first worker runs, once it is ready."""
    is_stopping: bool
    """Whether it was told to stop."""
    started_at: datetime
    """When it was started."""
    ready_at: datetime | None
    """When it had loaded its base model."""
    seen_at: datetime
    """When it was last heard of."""


class TrainerFailure(BaseModel):
    """A trainer that could not start."""

    model_config = ConfigDict(frozen=True)

    base: str
    """Its base model."""
    shape: TrainerShape
    """How it stores the base model."""
    failures: int
    """Failures in a row."""
    reason: str
    """Why it failed last, in one line."""
    failed_at: datetime
    """When it failed last."""
    retry_at: datetime
    """When it is started again."""
