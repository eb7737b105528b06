"""Settings of consolidations: their trainers, their bounds and the gate. ``models.py`` has the others."""

from pydantic import Field, ValidationInfo, field_validator

from looper.platform.domain.recipe import Recipe
from looper.platform.settings.serving import AcceleratorType
from looper.platform.settings.storage import SettingsSection


class GateSettings(SettingsSection):
    """What a candidate must reach to be published."""

    false_pass_rate: float = Field(
        0.035,
        gt=0,
        le=1,
        description="A candidate that is no better than the version before passes with at most this probability. "
        "1 passes each one that is not evidently worse.",
    )
    false_refusal_rate: float = Field(
        0.01,
        ge=0,
        le=0.5,
        description="Each comparison refuses a candidate that is no worse with at most this probability. With 0 none "
        "is refused by a comparison: it goes to the canary.",
    )
    canary_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the requests for the plain name that goes to a candidate with too little evidence to "
        "pass or refuse it, in the channel canary.",
    )
    min_right_actions: int = Field(
        1,
        ge=0,
        description="A candidate with fewer right held-out actions does not pass, if there are any actions, nor one "
        "with fewer in a context (such as beside notes) in which at least 5 were asked.",
    )
    max_loss_ratio: float = Field(
        3.0,
        gt=1,
        description="Maximum held-out loss, as a multiple of the loss of the version before, or of 0.25 nats per token "
        "if that is more.",
    )
    min_gain: float = Field(
        0.005, ge=0, description="Where no held-out task has tool calls, the loss must fall by this fraction."
    )
    max_forgetting: float = Field(
        0.02,
        ge=0,
        description="Maximum fall of accuracy on earlier sessions below the best of the lineage, and in each context "
        "(such as beside notes) below the version before; or rise of the loss if there are no tool calls.",
    )
    max_loops: float = Field(
        0.02, ge=0, description="Maximum rise of the fraction of tool calls that repeat the call before."
    )
    max_tool_errors: float = Field(0.02, ge=0, description="Maximum rise of the fraction of invalid tool calls.")
    max_control_loss: float = Field(
        4.0,
        gt=1,
        description="Maximum loss on tasks of the tenant's other instances, as a multiple of the base model's loss.",
    )


class TrainerSettings(SettingsSection):
    """The trainers of one base model."""

    cohort_size: int = Field(16, ge=1, description="Maximum consolidations in one trainer at the same time.")
    max_trainers: int = Field(
        1, ge=1, description="Maximum trainers at the same time. Each holds a base model of its own in memory."
    )
    num_workers: int = Field(1, ge=1, description="Workers of a trainer. Each batch is divided among them.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="A trainer goes on with this number of workers while there is no room for num_workers, as after "
        "a node died, and grows again. Default: it waits for num_workers.",
    )
    accelerator_type: AcceleratorType | None = Field(
        None, description="Type of the GPUs of the trainers, as Ray names it, such as A100. Default: any."
    )
    sharded: bool = Field(
        False, description="Whether each worker of a trainer holds only a part of the base model (ZeRO stage 3)."
    )

    @field_validator("min_workers")
    @classmethod
    def _check_min_workers(cls, min_workers: int | None, others: ValidationInfo) -> int | None:
        num_workers = others.data.get("num_workers")
        if min_workers is not None and num_workers is not None and min_workers > num_workers:
            raise ValueError(f"it is above num_workers, which is {num_workers}")
        return min_workers


class ConsolidationSettings(TrainerSettings):
    """How consolidations are trained and tested."""

    recipe: Recipe = Field(Recipe(), description="Default recipe.")
    holdout: float = Field(
        0.2, gt=0, lt=1, description="Fraction of the tasks that is kept from training, for the gate."
    )
    idle_timeout_s: float = Field(300.0, gt=0, description="A trainer without work exits after this time.")
    max_concurrent_per_tenant: int | None = Field(
        None,
        ge=1,
        description="Maximum consolidations of one tenant that are worked on at the same time in each stage. "
        "Default: no limit.",
    )
    lease_s: float = Field(
        60.0,
        gt=0,
        description="Another worker takes over a consolidation whose holder did not renew its lease for this time. "
        "A holder renews it three times as often, while it makes progress.",
    )
    progress_timeout_s: float = Field(
        600.0,
        gt=0,
        description="A holder that advances nothing for this time (no pass over the base model, no example encoded, no "
        "object written) no longer renews its leases. A trainer is killed and started again.",
    )
    start_timeout_s: float = Field(
        1800.0, gt=0, description="A trainer that has not loaded its base model after this time is killed."
    )
    checkpoint_interval_s: float = Field(
        60.0, ge=0, description="Minimum time between two checkpoints of a training run."
    )
    max_steps_per_job: int = Field(
        100_000,
        ge=1,
        description="Maximum optimizer steps of a consolidation. One that needs more is refused or fails.",
    )
    max_tokens_per_job: int = Field(
        1_000_000_000,
        ge=1,
        description="Maximum tokens that a consolidation trains on, over all epochs. One that needs more fails.",
    )
    max_hours_per_job: float = Field(
        24.0, gt=0, description="A consolidation that has held a place in trainers for this time fails."
    )
    max_tokens_per_step: int = Field(
        65_536,
        ge=32,
        description="Maximum batch_size times max_seq_length of a recipe. The other members of a trainer wait for a "
        "step of this size.",
    )
    max_wait_s: float = Field(
        600.0,
        gt=0,
        description="When all places of a trainer are taken and another tenant's consolidation has waited this long, "
        "one of the tenant with the most places is paused at a checkpoint and waits in turn.",
    )
    max_attempts: int = Field(
        5, ge=2, description="A consolidation fails after this many trainers died of it without a new checkpoint."
    )
    gate: GateSettings = Field(GateSettings(), description="What a candidate must reach.")
