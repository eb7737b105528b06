"""The recipe: the hyperparameters with which an adapter is trained.

Settings hold the default recipe, a consolidation request may override it, and the trainer reads it. The catalog and the
adapter's manifest keep a copy.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.learning_rate import default_learning_rate
from looper.platform.domain.names import NAME_PATTERN
from looper.platform.domain.renamed import RENAMED_RECIPE_FIELDS, rename_old_fields
from looper.platform.domain.strategy import check_strategy
from looper.platform.domain.suggestions import did_you_mean


class TrainerShape(StrEnum):
    """How the base model's weights are stored in the trainer's memory.

    Two consolidations can share a trainer if they have the same base model and the same shape. Their ranks, target
    modules and methods may differ.
    """

    PLAIN = "plain"
    NF4 = "nf4"


class Recipe(BaseModel):
    """How an adapter is trained. The recipe is stored with every consolidation and in every manifest.

    Tenants choose it, so each number has bounds at both ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["lora", "rslora", "lora+", "dora", "adalora", "qlora"] = Field(
        "lora",
        description="How the adapter is parametrized and optimized. It is always published as plain LoRA.",
    )
    strategy: Annotated[str, AfterValidator(check_strategy)] = Field(
        "replay",
        max_length=255,
        description="Strategy against forgetting. Some can be combined: replay(share=1)+ella.",
    )
    target_modules: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,128}$")], ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Linear layers of the base to adapt, by the last part of their name. Default: all.",
    )
    rank: int = Field(16, ge=1, le=512, description="LoRA rank, PEFT's r.")
    alpha: float = Field(
        32.0,
        gt=0,
        le=65_536,
        description="LoRA alpha, PEFT's lora_alpha. The update is scaled by alpha / rank.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        exclude_if=lambda rate: rate is None,  # releases that do not know that read recipes too, and take 2e-3
        description="Peak learning rate of AdamW. Default: chosen for the size of the base model, 2e-3 for the one "
        "that comes with Looper.",
    )
    epochs: int = Field(3, ge=1, le=1_000, description="Passes over the training examples.")
    max_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Training ends after this many optimizer steps, whatever the epochs."
    )
    batch_size: int = Field(4, ge=1, le=512, description="Sequences per optimizer step.")
    max_seq_length: int = Field(
        1024,
        ge=32,
        le=131_072,
        description="Maximum tokens of a sequence. A longer example is split into several windows.",
    )
    warmup_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the learning rate rises linearly.",
    )
    weight_decay: float = Field(0.0, ge=0, le=100, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, gt=0, le=1_000_000, description="Maximum gradient norm. Each tenant is clipped on its own."
    )
    preference_weight: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the preference loss on pairs of a better and a worse turn. 0: not used.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="Seed of the adapter's initial weights and of the order of examples.",
    )
    contexts: ContextShares = Field(
        ContextShares(),
        exclude_if=ContextShares().__eq__,  # releases that do not know it read recipes too
        description="Shares of the examples that are rendered again beside notes and earlier episodes.",
    )
    start: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")] | None = Field(
        None,
        exclude_if=lambda name: name is None,  # as for contexts
        description="Name of the start from which an instance's first training begins. Default: a random adapter.",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, fields: object) -> object:
        for name in fields if isinstance(fields, Mapping) else ():
            if name in cls.model_fields:
                continue
            suggestion = did_you_mean(str(name), list(cls.model_fields))
            hint = f"did you mean {suggestion}?" if suggestion else f"the fields are {', '.join(cls.model_fields)}"
            if name in RENAMED_RECIPE_FIELDS:
                hint = f"it was renamed to {RENAMED_RECIPE_FIELDS[name]}"
            message = f"{name} is not a recipe field: {hint}"
            raise PydanticCustomError("unknown_field", "{message}", {"message": message})
        return fields

    def resolve_learning_rate(self, parameters: int) -> "Recipe":
        """Choose the learning rate, if the recipe gives none.

        Args:
            parameters: Number of parameters of the base model.

        Returns:
            A recipe with a learning rate.
        """
        if self.learning_rate is not None:
            return self
        return self.model_copy(update={"learning_rate": default_learning_rate(parameters)})

    @property
    def trainer_shape(self) -> TrainerShape:
        """Shape that the trainer of this recipe must have: ``nf4`` for qlora, ``plain`` for all other methods."""
        return TrainerShape.NF4 if self.method == "qlora" else TrainerShape.PLAIN


def _read_stored_recipe(value: object, read: ValidatorFunctionWrapHandler) -> object:
    """Read a recipe that an earlier version of Looper accepted, even if it is above a bound of today."""
    value = rename_old_fields(value)
    try:
        return read(value)
    except ValidationError as error:
        if not isinstance(value, dict) or any(each["type"] not in _ABOVE_BOUND for each in error.errors()):
            raise
        within = {name: each for name, each in value.items() if name not in {each["loc"][0] for each in error.errors()}}
        recipe = Recipe.model_validate(within)
        return recipe.model_copy(update={name: value[name] for name in value.keys() - within.keys()})


_ABOVE_BOUND = ("less_than_equal", "too_long")
"""Pydantic's types of errors of a value above its bound."""

StoredRecipe = Annotated[Recipe, WrapValidator(_read_stored_recipe)]
"""A recipe that was read from the catalog or from a manifest. Its fields may have the names of an earlier version, and
values above the bounds; ``Settings.check_recipe`` refuses those when such a consolidation is accepted for work."""
