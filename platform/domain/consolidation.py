"""A consolidation: its states, its recipe and the numbers the gate judges."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from looper.platform.domain import strategy
from looper.platform.domain.fields import did_you_mean
from looper.platform.domain.names import InstanceName
from looper.platform.domain.renamed import RECIPE_FIELDS, with_new_names


class ConsolidationState(StrEnum):
    """``queued -> synthesising -> training -> evaluating -> published | rejected | failed | cancelled``"""

    QUEUED = "queued"
    SYNTHESISING = "synthesising"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (
            ConsolidationState.PUBLISHED,
            ConsolidationState.REJECTED,
            ConsolidationState.FAILED,
            ConsolidationState.CANCELLED,
        )


class QueueStage(StrEnum):
    """Whose turn it is: each stage is worked by another kind of worker, which hands on to the next."""

    SYNTHESIS = "synthesis"
    TRAINING = "training"
    CONCLUSION = "conclusion"

    @property
    def states(self) -> tuple[ConsolidationState, ...]:
        """Of a consolidation that waits for this stage or is in it."""
        match self:
            case QueueStage.SYNTHESIS:
                return (ConsolidationState.QUEUED, ConsolidationState.SYNTHESISING)
            case QueueStage.TRAINING:
                return (ConsolidationState.TRAINING,)
            case QueueStage.CONCLUSION:
                return (ConsolidationState.EVALUATING,)


class TrainerShape(StrEnum):
    """What two consolidations must have in common, beside the base model, to share a trainer: the base's weights as
    they lie in memory. Ranks, targets and methods may differ."""

    PLAIN = "plain"
    NF4 = "nf4"


def _written(text: str) -> str:
    strategy.parse_strategy(text)
    return text


class Recipe(BaseModel):
    """How an adapter is trained. Recorded with every consolidation and in every manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["lora", "rslora", "lora+", "dora", "adalora", "qlora"] = Field(
        "lora",
        description="How the adapter is parametrized and stepped. Plain LoRA is published in any case.",
    )
    strategy: Annotated[str, AfterValidator(_written)] = Field(
        "replay",
        max_length=255,
        description="Strategy against forgetting. Some compose: replay(share=1)+ella.",
    )
    target_modules: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], ...] | None = Field(
        None,
        min_length=1,
        description="Linear layers of the base to adapt, by the last part of their name. Default: all.",
    )
    rank: int = Field(16, ge=1, le=512, description="LoRA rank, PEFT's r.")
    alpha: float = Field(
        32.0,
        gt=0,
        description="LoRA alpha, PEFT's lora_alpha. The update is scaled by alpha / rank.",
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak learning rate of AdamW.")
    epochs: int = Field(3, ge=1, description="Passes over the training examples.")
    max_steps: int | None = Field(
        None, ge=1, description="Training ends after this many optimizer steps, whatever the epochs."
    )
    batch_size: int = Field(4, ge=1, description="Sequences per optimizer step.")
    max_seq_length: int = Field(
        1024, ge=32, description="Most tokens of a sequence. A longer example becomes several windows."
    )
    warmup_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the learning rate rises linearly.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Largest gradient norm, of each tenant for itself.")
    preference_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the preference loss on pairs of a better and a worse turn. 0: not used.",
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the adapter's initial weights and of the order of examples.",
    )

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: object) -> object:
        for name in given if isinstance(given, Mapping) else ():
            if name in cls.model_fields:
                continue
            meant = did_you_mean(str(name), list(cls.model_fields))
            way_out = f"did you mean {meant}?" if meant else f"there are {', '.join(cls.model_fields)}"
            if name in RECIPE_FIELDS:
                way_out = f"it is called {RECIPE_FIELDS[name]} now"
            message = f"{name} is not a field of recipes: {way_out}"
            raise PydanticCustomError("unknown_field", "{message}", {"message": message})
        return given

    @property
    def trainer_shape(self) -> TrainerShape:
        return TrainerShape.NF4 if self.method == "qlora" else TrainerShape.PLAIN


StoredRecipe = Annotated[Recipe, BeforeValidator(with_new_names)]
"""A recipe that is read from the catalog or a manifest, where fields may have the names of an earlier version."""


class Scores(BaseModel):
    """An adapter (or the bare base) on held-out examples."""

    model_config = ConfigDict(frozen=True)

    accuracy: float | None
    """Share of held-out tool calls whose every token is the argmax given the true history; None without any call."""
    loss: float
    """Mean cross-entropy in nats over the agent's held-out tokens."""
    actions: int
    """How many tool calls were judged."""
    tokens: int
    """How many of the agent's tokens were judged."""
    loops: float | None = None
    """Share of the tool calls that would repeat the call before, where the true one is another."""
    tool_errors: float | None = None
    """Share of the tool calls that would be invalid: malformed, of an unknown tool, or with an unknown argument."""


class Comparison(BaseModel):
    """A candidate and what it is held against, on the same held-out examples."""

    model_config = ConfigDict(frozen=True)

    candidate: Scores
    reference: Scores


class Margins(BaseModel):
    """What a preference loss did: log odds of the better turn minus those of the worse, on pairs that were trained on.

    The odds are P / (1 - P) of the geometric mean P of the turn's token probabilities.
    """

    model_config = ConfigDict(frozen=True)

    pairs: int
    """How many were trained on. Without any, only the plain loss was."""
    left_out: dict[str, int]
    """How many could not be used, by reason."""
    before: float | None
    """Mean margin of the version that it started from, or of the bare base, over some of the pairs."""
    after: float | None
    """The candidate's, on the same."""


class CandidateScores(BaseModel):
    """The numbers for the gate. Those that are None were not taken: there was nothing to take them on."""

    model_config = ConfigDict(frozen=True)

    candidate: Scores
    """On the held-out tasks of the consolidation's own session."""
    current: Scores
    """On the same, the version that it started from, or the bare base."""
    earlier: Comparison | None = None
    """On the held-out tasks of the sessions before, against the version that it started from."""
    control: Comparison | None = None
    """On held-out tasks of the tenant's other instances, against the bare base."""
    canary: float | None = None
    """How far it moves the logits z after one held-out prompt from the bare base's: ||z' - z|| / ||z||."""
    conversion_error: float | None = None
    """Of plain LoRA of the served rank for what was trained: ||dW - dW'|| / ||dW|| over all layers.

    Of qlora, rather ||W - W'|| / ||W||: how far the base it was trained on is from the one it is served on.
    """
    trained: Scores | None = None
    """As ``candidate``, of what was trained, before it was converted."""
    margins: Margins | None = None
    """None if the recipe gives a preference loss no weight."""


class GateVerdict(CandidateScores):
    """What the gate decided, and on which numbers."""

    passed: bool
    reason: str


class TrainingProgress(BaseModel):
    """How far training is: optimiser steps done of all, and the latest mean loss in nats per token."""

    model_config = ConfigDict(frozen=True)

    step: int
    steps: int
    loss: float | None = None


LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10


class Consolidation(BaseModel):
    """The job that turns an instance's new trajectories into its next adapter version."""

    model_config = ConfigDict(frozen=True)

    id: str
    instance: InstanceName
    state: ConsolidationState
    base: str
    recipe: StoredRecipe
    batches: tuple[str, ...]
    parent: str | None
    """Digest of the version it starts from: what ``prod`` pointed to when it was first claimed."""
    priority: int
    """From ``LOWEST_PRIORITY`` to ``HIGHEST_PRIORITY``; a higher one is claimed before any lower one."""
    attempts: int
    """How often it was claimed for training since its last checkpoint; what was given back in order does not count."""
    owner: str | None
    reason: str | None
    """Why it was rejected or failed, in one line."""
    verdict: GateVerdict | None
    digest: str | None
    """Of the published version."""
    progress: TrainingProgress | None
    created_at: datetime
    """When it was submitted."""
    started_at: datetime | None
    """When it was first claimed: until then it waited."""
    ended_at: datetime | None
    updated_at: datetime


class Version(BaseModel):
    """One immutable adapter of an instance."""

    model_config = ConfigDict(frozen=True)

    digest: str
    instance: InstanceName
    base: str
    base_revision: str
    rank: int
    parent: str | None
    consolidation: str
    verdict: GateVerdict
    created_at: datetime
    revoked_at: datetime | None = None
    """Since when it is served no more."""
