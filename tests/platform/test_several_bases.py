"""Several base models: their settings, the base model that an instance is on, and moves between them."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from looper.platform.api.submission import choose_base, submit_consolidations, submit_move
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound
from looper.platform.domain.names import PROD, InstanceName, ModelName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_for_base, load_settings
from looper.platform.settings.gpu_plan import GpuPlan, missing_gpus, plan_gpus
from tests.platform.queue_harness import VERDICT

DESK = InstanceName("acme", "desk")
TWO = {
    "base": "small",
    "serve": {"replicas": 3, "port": 9},
    "bases": [{"base": "large", "serve": {"max_lora_rank": 64}, "consolidation": {"max_trainers": 2}}],
}


def test_the_settings_of_each_base_model_are_as_if_it_were_the_only_one() -> None:
    settings = load_settings(**TWO)
    large = settings.for_base("large")
    assert (large.base, large.serve.max_rank, large.serve.replicas, large.serve.port) == ("large", 64, 1, 9)
    assert (large.consolidation.max_trainers, settings.consolidation.max_trainers) == (2, 1)
    assert (settings.base_names, large.base_names) == (("small", "large"), ("large", "small"))
    assert large.for_base("small") == settings
    assert settings.max_engines == large.max_engines == 4
    assert Settings.model_validate_json(large.model_dump_json()) == large
    with pytest.raises(InvalidInput, match=r"base model 'other' is not one of this cluster: small, large"):
        settings.for_base("other")


def test_a_command_on_one_base_model_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_BASES", '[{"base": "large", "serve": {"max_lora_rank": 64}}]')
    assert load_for_base(None).base == "smollm2-135m"
    assert (load_for_base("large").base, load_for_base("large").serve.max_rank) == ("large", 64)
    assert (load_for_base("other").base_names, load_for_base("other").serve.max_rank) == (("other",), 16)


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ([{"base": "smollm2-135m"}], "base model 'smollm2-135m' is named twice"),
        ([{"base": "a"}, {"base": "a"}], "base model 'a' is named twice"),
        (
            [{"base": "a", "serve": {"replicas": -1}}],
            r"bases\.0\.serve\.replicas = -1 \(bases\): expected an integer",
        ),
        ([{"base": "a", "serve": {"replicas": 0}}], "replicas 0 needs max_replicas"),
        ([{"base": "a", "serve": {"port": 1}}], r"bases\[\]\.serve\.port of a flag is not a setting"),
        ([{"base": "a", "consolidation": {"gate": {}}}], "consolidation.gate of a flag is not a setting"),
        ([{"serve": {}}], r"bases\.0\.base"),
    ],
)
def test_a_mistake_in_a_further_base_model_is_refused_by_name(bases: list[object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_settings(bases=bases)


def test_a_recipe_may_have_the_rank_that_its_base_model_is_served_with() -> None:
    settings = load_settings(**TWO)
    settings.check_recipe(Recipe(rank=64))
    settings.check_recipe(Recipe(rank=64), "large")
    with pytest.raises(InvalidInput, match=r"rank 64 is above serve\.max_lora_rank 16"):
        settings.check_recipe(Recipe(rank=64), "small")


@pytest.mark.parametrize(
    ("gpus", "plan"),
    [
        ({"A100": 2, "L4": 2}, GpuPlan(1, 1)),
        ({"A100": 1, "L4": 2}, GpuPlan(0.5, 0.5)),
        ({"A100": 1, "L4": 1}, GpuPlan(0.5, 0.5)),
        ({}, None),
        ({"A100": 4}, None),
    ],
)
def test_gpus_are_divided_among_all_base_models(gpus: dict[str, float], plan: GpuPlan | None) -> None:
    def of(kind: str) -> dict[str, object]:
        return {"serve": {"accelerator_type": kind}, "consolidation": {"accelerator_type": kind}}

    settings = load_settings(base="small", bases=[{"base": "large", **of("A100")}], **of("L4"))
    if plan is None:
        with pytest.raises(InvalidInput, match="accelerator_type is"):
            plan_gpus(gpus, settings)
    else:
        assert plan_gpus(gpus, settings) == plan_gpus(gpus, settings.for_base("large")) == plan
    types = [name for gpu in missing_gpus({}, settings) for name in gpu if name != "GPU"]
    assert types == ["accelerator_type:L4"] * 2 + ["accelerator_type:A100"] * 2, "for all of them, nodes are asked for"


@pytest.fixture
def settings(catalog_settings: Settings) -> Settings:
    return catalog_settings.model_copy(update=dict(load_settings(**TWO)) | {"home": catalog_settings.home})


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        yield catalog


def ingest(catalog: Catalog, batch: str) -> None:
    catalog.ensure_instance(DESK)
    catalog.add_batch(DESK, batch, source="x", trajectories=1)


def finish(catalog: Catalog, digest: str) -> None:
    """Publish a version for what is queued."""
    (job,) = catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    assert catalog.publish(job.id, "me", digest=digest * 64, verdict=VERDICT, base_revision=f"revision of {job.base}")


def consolidate(catalog: Catalog, settings: Settings, batch: str, digest: str) -> None:
    ingest(catalog, batch)
    submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    finish(catalog, digest)


def prod_base(catalog: Catalog) -> str:
    return catalog.resolve_targets(ModelName(DESK, PROD))[0].base


def test_an_instance_is_on_the_first_base_model_or_on_the_one_it_was_created_with(
    catalog: Catalog, settings: Settings
) -> None:
    ingest(catalog, "b1")
    (first,) = submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    assert (first.base, first.is_move, catalog.get_instance(DESK).base) == ("small", False, None)
    with pytest.raises(Conflict, match=f"unfinished consolidation {first.id} on base model small: wait"):
        catalog.create_instance(DESK, "large")
    catalog.cancel(first.id)
    catalog.create_instance(DESK, "large")
    catalog.create_instance(DESK, "large")
    assert catalog.get_instance(DESK).base == "large"
    assert submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)[0].base == "large"
    finish(catalog, "a")
    with pytest.raises(Conflict, match="has versions already: looper move acme/desk --base small"):
        catalog.create_instance(DESK, "small")
    with pytest.raises(NotFound, match="tenant nobody"):
        catalog.create_instance(InstanceName("nobody", "desk"), "large")


def test_a_move_trains_on_the_whole_history_and_serves_once_it_is_published(
    catalog: Catalog, settings: Settings
) -> None:
    consolidate(catalog, settings, "b1", "a")
    ingest(catalog, "b2")
    move = submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")
    assert (move.base, move.is_move, move.batches) == ("large", True, ("b1", "b2"))
    assert submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large") == move, (
        "asked again, it is the same"
    )
    with pytest.raises(Conflict, match=f"{move.id} on base model large"):
        submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    assert (prod_base(catalog), catalog.get_instance(DESK).base) == ("small", "small")
    finish(catalog, "b")
    assert (prod_base(catalog), catalog.get_instance(DESK).base) == ("large", "large")
    moved, before = catalog.get_lineage("b" * 64)
    assert (moved.base, before.base, moved.parent) == ("large", "small", before.digest)
    job = catalog.get_consolidation(move.id)
    assert (job.parent, job.start) == ("a" * 64, None), "it trains from nothing"

    ingest(catalog, "b3")
    (later,) = submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    assert (later.base, later.is_move, later.batches) == ("large", False, ("b3",))
    finish(catalog, "c")
    assert catalog.get_consolidation(later.id).start == "b" * 64


def test_a_rollback_over_a_move_moves_the_instance_back(catalog: Catalog, settings: Settings) -> None:
    consolidate(catalog, settings, "b1", "a")
    ingest(catalog, "b2")
    submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")
    finish(catalog, "b")
    catalog.set_channel(DESK, PROD, "a" * 64)
    assert (prod_base(catalog), catalog.get_instance(DESK).base) == ("small", "small")
    (job,) = submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    assert (job.base, job.batches) == ("small", ("b2",)), "only the other base model has learned it"


@pytest.mark.parametrize("state", [ConsolidationState.REJECTED, ConsolidationState.FAILED])
def test_a_move_that_comes_to_nothing_changes_nothing(
    catalog: Catalog, settings: Settings, state: ConsolidationState
) -> None:
    consolidate(catalog, settings, "b1", "a")
    move = submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")
    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    if state is ConsolidationState.REJECTED:
        catalog.reject(move.id, "me", VERDICT)
    else:
        catalog.fail(move.id, "me", "no examples left")
    assert (prod_base(catalog), catalog.get_instance(DESK).base) == ("small", "small")
    with pytest.raises(InvalidInput, match="no new trajectories"):
        submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    assert submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large").batches == ("b1",)


def test_what_cannot_be_moved_is_refused(catalog: Catalog, settings: Settings) -> None:
    with pytest.raises(NotFound, match="instance acme/desk does not exist"):
        submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")
    ingest(catalog, "b1")
    with pytest.raises(InvalidInput, match="no version to move: put it on the base model by looper instance create"):
        submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")
    consolidate(catalog, settings, "b2", "a")
    with pytest.raises(InvalidInput, match="on base model small already"):
        submit_move(catalog, ObjectStore.open(settings), settings, DESK, "small")
    with pytest.raises(InvalidInput, match="'other' is not one of this cluster"):
        submit_move(catalog, ObjectStore.open(settings), settings, DESK, "other")
    ingest(catalog, "b3")
    (job,) = submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK], None)
    with pytest.raises(Conflict, match=job.id):
        submit_move(catalog, ObjectStore.open(settings), settings, DESK, "large")


def test_the_only_base_model_may_have_another_name_than_before(catalog: Catalog) -> None:
    before, now = load_settings(base="model"), load_settings(base="/data/model")
    consolidate(catalog, before, "b1", "a")
    with pytest.raises(InvalidInput, match="no new trajectories"):
        submit_consolidations(catalog, ObjectStore.open(now), now, [DESK], None)
    ingest(catalog, "b2")
    (job,) = submit_consolidations(catalog, ObjectStore.open(now), now, [DESK], None)
    assert (job.base, job.batches) == ("/data/model", ("b2",))
    with pytest.raises(InvalidInput, match="on base model 'model', which is not one of this cluster"):
        choose_base(load_settings(base="x", bases=[{"base": "y"}]), DESK, "model")


def test_claims_of_a_trainer_are_of_its_base_model(catalog: Catalog, settings: Settings) -> None:
    other = InstanceName("acme", "other")
    for instance, base in ((DESK, "small"), (other, "large")):
        catalog.create_instance(instance, base)
        catalog.add_batch(instance, "b1", source="x", trajectories=1)
    submit_consolidations(catalog, ObjectStore.open(settings), settings, [DESK, other], None)
    for job in catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60):
        catalog.hand_over(job.id, "me", ConsolidationState.TRAINING)
    assert {demand.base: demand.waiting for demand in catalog.list_training_demand()} == {"small": 1, "large": 1}
    claimed = catalog.claim("trainer", QueueStage.TRAINING, base="large", limit=9, lease_s=60)
    assert [job.instance for job in claimed] == [other]
