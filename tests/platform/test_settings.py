import subprocess
import sys
from pathlib import Path

import pytest

from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings


def test_flags_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("looper.yaml").write_text("base: from-file\nserve: {port: 1, slots: 3}\n")
    assert load_settings().serve.port == 1
    monkeypatch.setenv("LOOPER_SERVE__PORT", "2")
    assert (load_settings().serve.port, load_settings().serve.slots) == (2, 3)
    assert load_settings(serve={"port": 4}).serve.port == 4
    assert load_settings().base == "from-file"


def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_SERVE__PORT", "many")
    with pytest.raises(InvalidInput, match=r"setting serve\.port = 'many'"):
        load_settings()


def test_a_rank_the_server_refuses_is_refused_at_once(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, serve={"max_lora_rank": 8})
    settings.check_recipe(Recipe(rank=8))
    with pytest.raises(InvalidInput, match=r"rank 16 is above serve\.max_lora_rank 8"):
        settings.check_recipe(Recipe(rank=16))


def test_settings_import_nothing_heavy() -> None:
    program = "import looper.platform.settings, sys; print(sorted({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_places_are_told_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings travel to Ray's workers, whose working directory is another."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(home="state", store={"url": "objects"})
    assert settings.home == tmp_path / "state"
    assert settings.store_url == str(tmp_path / "objects")
    assert load_settings().home.is_absolute()
    assert load_settings(store={"url": "s3://bucket/x"}).store_url == "s3://bucket/x"
