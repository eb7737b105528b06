"""``looper serve-config`` on the command line; tests/cluster has what is in the config."""

import json
from pathlib import Path

import yaml

from looper.cluster.serve_config import format_serve_config
from looper.platform.settings import Settings
from tests.cli.conftest import Home
from tests.cluster.test_serve_config import CATALOG, GIVEN, STORE


def test_it_prints_yaml_or_json_or_one_line(home: Home) -> None:
    variables = {"LOOPER_CATALOG__URL": CATALOG, "LOOPER_STORE__URL": STORE}
    assert "SQLite" in home.refused("serve-config")
    printed = home.run("serve-config", **variables).out
    as_json = json.loads(home.run("serve-config", "--json", **variables).out)
    assert yaml.safe_load(printed) == as_json
    assert as_json["applications"][0]["args"] == {"store": {"url": STORE}}


def test_a_settings_file_counts_as_variables_do(home: Home, tmp_path: Path) -> None:
    (tmp_path / "looper.yaml").write_text(yaml.safe_dump(GIVEN))
    assert home.run("serve-config", LOOPER_CONFIG="").out == format_serve_config(Settings.model_validate(GIVEN))
