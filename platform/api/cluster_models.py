"""Response type of ``/api/v1/cluster``, which ``looper status --json`` prints, too."""

from datetime import datetime

from pydantic import Field

from looper.platform.api.models import ApiModel
from looper.platform.domain.cluster_report import ClusterReport, Leader, TrainerFailure, TrainerRecord


class ClusterInfo(ApiModel):
    """What runs where, and what waits for what."""

    urls: list[str] = Field(description="Where the HTTP API answers")
    healthy: bool = Field(description="Whether the HTTP API answers")
    leader: Leader | None = Field(description="The control loop that leads. Null: none does")
    report: ClusterReport | None = Field(description="What it has reported last. Null: nothing yet")
    reported_at: datetime | None = Field(description="When that was")
    report_age_s: float | None = Field(description="How long ago that was by the catalog's clock, in seconds")
    trainers: list[TrainerRecord] = Field(description="The trainers")
    trainer_failures: list[TrainerFailure] = Field(description="Trainers that could not start")
    consolidations: dict[str, int] = Field(description="Number of consolidations in each state")
    waits: dict[str, int] = Field(description="Number of consolidations that wait, by what they wait for")
