"""`looper starts`: what it adds, lists and removes in the object store of the settings."""

import json
from pathlib import Path

import pytest

from looper.jobs.consolidation.adapters.adapter_file import serialize_config, serialize_weights
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.recipe import Recipe
from tests.cli.conftest import Home
from tests.tiny import FLOAT32, tiny_base


@pytest.fixture
def base(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedBase:
    folder = tiny_base(tmp_path / "tiny")
    monkeypatch.setenv("LOOPER_BASE", str(folder))
    return SharedBase(folder, FLOAT32, checked=False)


def write_adapter(base: SharedBase, folder: Path, **recipe: object) -> str:
    lora = base.init_adapter(Recipe.model_validate({"rank": 4, **recipe}))
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(serialize_weights(lora))
    (folder / "adapter_config.json").write_bytes(serialize_config(lora, "tiny"))
    return str(folder)


def test_a_start_is_added_listed_and_removed(home: Home, base: SharedBase, tmp_path: Path) -> None:
    assert home.ok("starts", "list") == "no starts yet: looper starts add NAME FOLDER\n"
    folder = write_adapter(base, tmp_path / "adapter")
    added = json.loads(home.ok("starts", "add", "tool-use", folder, "--json"))
    assert (added["name"], added["base"], added["rank"]) == ("tool-use", str(base.folder), 4)
    assert added["adapts_all"] is True
    assert added["base_revision"] == base.revision
    assert f"start tool-use of {base.folder} is {added['digest']}" in home.ok("starts", "add", "tool-use", folder)
    head, row = home.ok("starts", "list").splitlines()
    assert head.split()[0] == "start"
    assert row.split() == ["tool-use", str(base.folder), base.revision[:12], "4", "all", "layers", added["digest"][:12]]
    assert json.loads(home.ok("starts", "list", "--json")) == [added]

    assert "no start 'other'" in home.refused("starts", "remove", "other")
    assert "base model else has no start" in home.refused("starts", "remove", "tool-use", "--base", "else")
    assert home.ok("starts", "remove", "tool-use") == f"start tool-use of {base.folder} was removed\n"
    assert json.loads(home.ok("starts", "list", "--json")) == []


def test_what_cannot_be_a_start_is_refused_in_one_line(home: Home, base: SharedBase, tmp_path: Path) -> None:
    assert "is not a valid name" in home.refused("starts", "add", "Tool Use", str(tmp_path))
    assert "is not a file" in home.refused("starts", "add", "tool-use", str(tmp_path))
    high = write_adapter(base, tmp_path / "high", rank=32)
    assert "above serve.max_lora_rank 16" in home.refused("starts", "add", "tool-use", high)
    assert json.loads(home.ok("starts", "list", "--json")) == []
