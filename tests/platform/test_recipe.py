"""Recipes: validation of their fields, and the trainer shape."""

import pytest
from pydantic import TypeAdapter, ValidationError

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe, StoredRecipe, TrainerShape
from looper.platform.settings import ConsolidationSettings, Settings


def test_only_qlora_needs_another_trainer_shape() -> None:
    shapes = {
        method: Recipe.model_validate({"method": method}).trainer_shape
        for method in ("lora", "rslora", "lora+", "dora", "adalora", "qlora")
    }
    assert {method for method, shape in shapes.items() if shape is TrainerShape.NF4} == {"qlora"}
    assert Recipe(rank=4, target_modules=("q_proj",)).trainer_shape == Recipe(rank=64).trainer_shape


@pytest.mark.parametrize(
    "strategy", ["none", "replay(share=0.5)+ella", "online-ewc(strength=1e-3,decay=0.9)", "i-lora"]
)
def test_combinations_of_strategies_are_accepted(strategy: str) -> None:
    assert Recipe(strategy=strategy).strategy == strategy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", ""),
        ("strategy", "replay; rm"),
        ("strategy", "../x"),
        ("method", "full"),
        ("target_modules", ()),
        ("target_modules", ("model.layers.0.q_proj",)),
        ("start", ""),
        ("start", "../x"),
        ("start", "Tool"),
        ("start", "tool\n"),
        ("start", "a" * 64),
    ],
)
def test_invalid_recipes_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("rank", 1, 512),
        ("epochs", 1, 1_000),
        ("max_steps", 1, 1_000_000),
        ("batch_size", 1, 512),
        ("max_seq_length", 32, 131_072),
        ("seed", 0, 2**63 - 1),
        ("alpha", None, 65_536),
        ("learning_rate", None, 1),
        ("warmup_ratio", 0, 1),
        ("weight_decay", 0, 100),
        ("max_grad_norm", None, 1_000_000),
        ("preference_weight", 0, 10),
    ],
)
def test_numbers_have_bounds_at_both_ends(field: str, lowest: int | None, highest: int) -> None:
    for accepted in (lowest, highest):
        if accepted is not None:
            assert getattr(Recipe.model_validate({field: accepted}), field) == accepted
    below = 0 if lowest is None else lowest - 1
    for refused in (below, highest + 1, 2**64, float("nan"), float("inf"), 10**400):
        with pytest.raises(ValidationError, match=field):
            Recipe.model_validate({field: refused})


def test_target_modules_are_bounded() -> None:
    Recipe(target_modules=("q" * 128,) * 64)
    for refused in (("q" * 129,), ("q",) * 65):
        with pytest.raises(ValidationError, match="target_modules"):
            Recipe(target_modules=refused)


def test_a_stored_recipe_above_a_bound_of_today_can_be_read_and_is_refused_for_work() -> None:
    stored = TypeAdapter(StoredRecipe).validate_python({"epochs": 10**9, "rank": 8, "clip": 0.5})
    assert (stored.epochs, stored.rank, stored.max_grad_norm) == (10**9, 8, 0.5)
    with pytest.raises(InvalidInput, match="epochs of the recipe: Input should be less than or equal to 1000"):
        Settings().check_recipe(stored)
    with pytest.raises(ValidationError):
        TypeAdapter(StoredRecipe).validate_python({"epochs": 0})


def test_what_a_job_may_take_is_checked_at_submission() -> None:
    limits = ConsolidationSettings(max_steps_per_job=50, max_tokens_per_step=1000)
    settings = Settings(consolidation=limits)
    settings.check_recipe(Recipe(max_steps=50, batch_size=10, max_seq_length=100))
    with pytest.raises(InvalidInput, match=r"max_steps 51 is above consolidation\.max_steps_per_job 50"):
        settings.check_recipe(Recipe(max_steps=51, batch_size=1, max_seq_length=100))
    with pytest.raises(InvalidInput, match=r"1001, above consolidation\.max_tokens_per_step 1000"):
        settings.check_recipe(Recipe(batch_size=11, max_seq_length=91))


def test_a_recipe_without_a_start_is_written_as_earlier_releases_read_it() -> None:
    assert "start" not in Recipe().model_dump(mode="json")
    assert Recipe(start="tool-use").model_dump(mode="json")["start"] == "tool-use"
