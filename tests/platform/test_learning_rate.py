"""The learning rate that is chosen for a base model, and the stored recipes in which it is not a number yet."""

import json
from contextlib import closing

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from looper.platform.api.models import ConsolidationInfo
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.learning_rate import default_learning_rate
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe, StoredRecipe
from looper.platform.settings import Settings


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(0, 2e-3), (10**6, 2e-3), (135 * 10**6, 2e-3), (10**9, 8.12e-4), (8 * 10**9, 3.19e-4), (70 * 10**9, 3e-4)],
)
def test_larger_base_models_have_lower_rates(parameters: int, rate: float) -> None:
    assert default_learning_rate(parameters) == pytest.approx(rate, rel=2e-3)
    assert Recipe().resolve_learning_rate(parameters).learning_rate == default_learning_rate(parameters)
    assert Recipe(learning_rate=1e-4).resolve_learning_rate(parameters) == Recipe(learning_rate=1e-4)


class EarlierRecipe(BaseModel):
    """Reads of a recipe what a release before there was a rule did."""

    model_config = ConfigDict(extra="ignore")

    learning_rate: float = 2e-3


def test_a_recipe_without_a_rate_is_read_by_earlier_releases_and_theirs_by_this_one() -> None:
    stored = Recipe(rank=8).model_dump(mode="json")
    assert "learning_rate" not in stored
    assert EarlierRecipe.model_validate(stored).learning_rate == 2e-3
    assert TypeAdapter(StoredRecipe).validate_python(stored) == Recipe(rank=8)
    theirs = TypeAdapter(StoredRecipe).validate_python(stored | {"learning_rate": 2e-3})
    assert theirs.resolve_learning_rate(8 * 10**9).learning_rate == 2e-3, "it was stored with that number"


@pytest.fixture
def job(catalog_settings: Settings) -> Consolidation:
    desk = InstanceName("acme", "desk")
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(desk)
        catalog.add_batch(desk, "b1", source="x", trajectories=1)
        job = catalog.submit(desk, base="b", recipe=Recipe())
        assert catalog.submit(desk, base="b", recipe=Recipe()) == job, "submitting the same again queues nothing"
        return job


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (None, None),
        (TrainingProgress(step=1, steps=9, learning_rate=7e-4), 7e-4),
        (TrainingProgress.model_validate({"step": 1, "steps": 9}), 2e-3),  # by a trainer of an earlier release
    ],
)
def test_the_rate_that_the_trainer_chose_is_shown(
    job: Consolidation, progress: TrainingProgress | None, rate: float | None
) -> None:
    assert job.recipe.learning_rate is None
    trained = job.model_copy(update={"progress": progress})
    assert trained.trained_recipe.learning_rate == rate
    shown = json.loads(ConsolidationInfo.from_consolidation(trained).model_dump_json())
    assert shown["recipe"].get("learning_rate") == rate
    given = trained.model_copy(update={"recipe": Recipe(learning_rate=5e-4)})
    assert given.trained_recipe.learning_rate == 5e-4
