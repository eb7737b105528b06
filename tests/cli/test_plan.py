"""``looper plan`` of a tiny base model, without a GPU."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from looper.cli import app
from tests.tiny import tiny_base


def test_a_plan_has_the_learning_rate_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_BASE", str(tiny_base(tmp_path / "tiny")))
    monkeypatch.setenv("LOOPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = CliRunner().invoke(app, ["plan", "--json", "--tenants", "2"])
    assert shown.exit_code == 0, shown.output
    plan = json.loads(shown.stdout)
    assert (plan["learning_rate"], plan["tenants"], plan["rank"]) == (2e-3, 2, 16)
