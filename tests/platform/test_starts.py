"""Starts: added, replaced, verified, found by recipes and removed. And what submission refuses."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from looper.platform.adapters.files import AdapterFiles
from looper.platform.adapters.starts import (
    StartManifest,
    add_start,
    fetch_start,
    find_start,
    list_starts,
    load_start,
    remove_start,
)
from looper.platform.api.submission import submit_consolidations, submit_move
from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from tests.platform.test_api import serve_control_plane

DESK, SHOP = InstanceName("acme", "desk"), InstanceName("acme", "shop")
SCORES = Scores(accuracy=None, loss=1.0, actions=0, tokens=40)
VERDICT = GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES)
RECIPE = Recipe(start="tool-use")


def files(
    weights: bytes = b"weights", base: str = "small", revision: str = "r1", modules: tuple[str, ...] = ()
) -> AdapterFiles:
    about = StartManifest(
        base=base,
        base_revision=revision,
        rank=4,
        target_modules=modules or ("k_proj", "q_proj"),
        adapts_all=not modules,
    )
    return AdapterFiles(weights, b'{"r": 4, "lora_alpha": 8}', about.to_bytes())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, base="small", bases=[{"base": "large"}])


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore.open(settings)


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    with closing(Catalog.open(settings)) as catalog:
        catalog.create_tenant("acme")
        for instance in (DESK, SHOP):
            catalog.ensure_instance(instance)
            catalog.add_batch(instance, f"b-{instance.instance}", source="x", trajectories=1)
        yield catalog


def test_a_start_is_replaced_by_name_and_found_by_the_latest(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    first = add_start(store, "tool-use", files())
    assert add_start(store, "tool-use", files()) == first
    written = store.list(keys.STARTS)
    assert written[0] == "starts/r1/tool-use/00000001.json"
    assert len(written) == 4, "adding the same again writes nothing"

    second = add_start(store, "tool-use", files(b"other"))
    other = add_start(store, "calls", files(base="large", revision="r2"))
    assert list_starts(store) == [other, second]
    assert find_start(store, RECIPE, "small", "r1") == find_start(store, RECIPE, "small") == second
    assert fetch_start(store, second).weights == b"other"
    assert fetch_start(store, load_start(store, "r1", "tool-use", first.digest)).weights == b"weights"
    third = add_start(store, "tool-use", files())
    assert find_start(store, RECIPE, "small", "r1") == third == first


def test_a_start_without_its_pointer_is_not_there(store: ObjectStore) -> None:
    start = add_start(store, "tool-use", files())
    store.delete(keys.start_pointer("r1", "tool-use", 1))
    assert list_starts(store) == []
    assert add_start(store, "tool-use", files()) == start
    assert list_starts(store) == [start]


def test_a_removed_start_is_gone_with_what_it_replaced(store: ObjectStore) -> None:
    first = add_start(store, "tool-use", files())
    add_start(store, "tool-use", files(b"other"))
    add_start(store, "tool-use", files(revision="r0"))
    kept = add_start(store, "tool-use", files(base="large", revision="r2"))
    assert [start.base_revision for start in remove_start(store, "tool-use", "small")] == ["r0", "r1"]
    assert list_starts(store) == [kept]
    assert store.list(keys.starts("r1")) == []
    with pytest.raises(NotFound, match=r"base model small has no start 'tool-use': looper starts list"):
        remove_start(store, "tool-use", "small")
    with pytest.raises(NotFound, match="was removed: an operator can add it again"):
        load_start(store, "r1", "tool-use", first.digest)
    with pytest.raises(NotFound, match="start 'tool-use' is incomplete"):
        fetch_start(store, first)


@pytest.mark.parametrize("name", ["", "../x", "Tool", "a" * 64, "tool-"])
def test_names_out_of_bounds_are_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid name"):
        add_start(store, name, files())
    with pytest.raises(InvalidInput, match="is not a valid name"):
        remove_start(store, name, "small")
    assert store.list(keys.STARTS) == []


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_a_changed_byte_is_detected(store: ObjectStore, tmp_path: Path, file: str) -> None:
    start = add_start(store, "tool-use", files())
    stored = tmp_path / "store" / keys.start_file("r1", "tool-use", start.digest, file)
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(
        CorruptAdapter, match=r"start 'tool-use' is corrupt.*looper starts remove tool-use --base small"
    ):
        fetch_start(store, start)


def test_a_start_has_to_fit_base_model_and_recipe(store: ObjectStore) -> None:
    with pytest.raises(
        InvalidInput, match=r"base model small has no start 'tool-use'.*looper starts add tool-use FOLD"
    ):
        find_start(store, RECIPE, "small", "r1")
    start = add_start(store, "tool-use", files())
    with pytest.raises(InvalidInput, match="made for revision r1 of base model small, which is at revision r9 now"):
        find_start(store, RECIPE, "small", "r9")
    with pytest.raises(InvalidInput, match="base model large has no start 'tool-use'"):
        find_start(store, RECIPE, "large")
    assert find_start(store, RECIPE, "renamed", "r1") == start, "weights decide where they are known"

    by_name = Recipe(start="tool-use", target_modules=("q_proj", "k_proj"))
    assert find_start(store, by_name, "small") == start
    add_start(store, "tool-use", files(modules=("q_proj",)))
    for recipe in (by_name, RECIPE):
        with pytest.raises(InvalidInput, match="start 'tool-use' adapts q_proj, and the recipe adapts"):
            find_start(store, recipe, "small")
    find_start(store, Recipe(start="tool-use", target_modules=("q_proj",)), "small")


def test_submission_refuses_a_start_that_a_first_training_lacks(
    catalog: Catalog, store: ObjectStore, settings: Settings
) -> None:
    with pytest.raises(InvalidInput, match="base model small has no start 'tool-use'"):
        submit_consolidations(catalog, store, settings, [DESK, SHOP], RECIPE)
    assert catalog.list_consolidations() == []
    add_start(store, "tool-use", files())
    (job,) = submit_consolidations(catalog, store, settings, [DESK], RECIPE)
    assert job.recipe.start == "tool-use"

    catalog.claim("me", QueueStage.SYNTHESIS, limit=9, lease_s=60)
    catalog.publish(job.id, "me", digest="a" * 64, verdict=VERDICT, base_revision="r1")
    catalog.add_batch(DESK, "b2", source="x", trajectories=1)
    with pytest.raises(InvalidInput, match="base model large has no start 'tool-use'"):
        submit_move(catalog, store, settings, DESK, "large", RECIPE)
    remove_start(store, "tool-use", "small")
    submit_consolidations(catalog, store, settings, [DESK], RECIPE)  # it continues its version
    with pytest.raises(InvalidInput, match="base model small has no start"):
        submit_consolidations(catalog, store, settings, [DESK, SHOP], RECIPE)


def test_the_control_plane_refuses_it_too(catalog: Catalog, store: ObjectStore, settings: Settings) -> None:
    with serve_control_plane(settings, catalog, store) as url, Client(url, issue_key(catalog, "acme")) as client:
        with pytest.raises(InvalidInput, match="base model small has no start 'tool-use'"):
            client.consolidate(["desk"], recipe=RECIPE)
        add_start(store, "tool-use", files())
        assert client.consolidate(["desk"], recipe=RECIPE)[0].recipe.start == "tool-use"
