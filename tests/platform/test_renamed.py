"""Old names of settings and recipe fields: users get an error with the new name; stored recipes stay readable."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, update

from looper.platform.adapters import fetch, publish
from looper.platform.api.models import ConsolidationRequest
from looper.platform.catalog import Catalog
from looper.platform.catalog import tables as t
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.renamed import RENAMED_RECIPE_FIELDS
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.settings.names import settings_and_items_by_path
from looper.platform.settings.renamed import RENAMED
from tests.platform.test_adapters import FILES

STORED_RECIPE = {"rank": 8, "max_context": 512, "warmup": 0.2, "clip": 0.5, "preference": 0.25}
"""A recipe as version 0.1.0 stored it, before the fields were renamed."""
RECIPE = Recipe(rank=8, max_seq_length=512, warmup_ratio=0.2, max_grad_norm=0.5, preference_weight=0.25)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_names_are_gone_and_new_ones_exist(old: str, new: str) -> None:
    assert old not in settings_and_items_by_path()
    assert new in settings_and_items_by_path()


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in RENAMED.items() if "[]" not in old])
def test_an_old_variable_is_refused_with_the_new_one(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (f"LOOPER_{path.upper().replace('.', '__')}" for path in (old, new))
    monkeypatch.setenv(old, "1")
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert str(caught.value) == f"{old} is not a setting: it was renamed to {new}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "synthesis: {without: [credit]}",
            "synthesis.without in {} is not a setting: it was renamed to synthesis.disabled",
        ),
        ("consolidation: {recipe: {clip: 1}}", "it was renamed to consolidation.recipe.max_grad_norm"),
        ("serve: {pools: [{slots: 1}]}", "it was renamed to serve.pools[].max_loras"),
    ],
)
def test_an_old_key_is_refused_with_the_new_one(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "looper.yaml"
    file.write_text(text)
    monkeypatch.setenv("LOOPER_CONFIG", str(file))
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert message.format(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((old, f"{old} is not a recipe field: it was renamed to {new}") for old, new in RENAMED_RECIPE_FIELDS.items()),
        ("rnak", "rnak is not a recipe field: did you mean rank?"),
        ("{x}", "{x} is not a recipe field: the fields are method, strategy"),
    ],
)
def test_a_request_with_an_old_or_unknown_field_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ConsolidationRequest.model_validate({"instances": ["desk"], "recipe": {name: 1}})
    assert caught.value.errors()[0]["msg"].startswith(message)


def test_recipes_in_the_catalog_with_old_names_are_readable(catalog_settings: Settings) -> None:
    desk = InstanceName("acme", "desk")
    with closing(Catalog.open(catalog_settings)) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(desk)
        catalog.add_batch(desk, "b1", source="x", trajectories=1)
        job = catalog.submit(desk, base="b", recipe=RECIPE)
        engine = create_engine(catalog_settings.catalog_url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as sql:
            sql.execute(update(t.consolidations).values(recipe=STORED_RECIPE))
        engine.dispose()
        assert catalog.get_consolidation(job.id).recipe == RECIPE
        assert catalog.submit(desk, base="b", recipe=RECIPE) == job, "submitting the same again queues nothing"


def test_manifests_with_old_names_are_readable(tmp_path: Path) -> None:
    manifest = json.loads(FILES.manifest) | {"recipe": STORED_RECIPE}
    old = replace(FILES, manifest=json.dumps(manifest).encode())
    store = ObjectStore.open(load_settings(home=tmp_path))
    digest = publish(store, "acme", old)
    found = fetch(store, "acme", digest)
    assert found.read_manifest().recipe == RECIPE
    assert found.digest == digest, "the bytes did not change"
