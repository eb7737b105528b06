"""``looper config``, the choice of the settings file, and shell completion."""

import json
from pathlib import Path

from tests.cli.conftest import Home


def test_config_show_prints_values_and_their_sources(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("serve: {port: 9001}\nsynthesis: {model: {api_key: sk-1}}\n")
    report = json.loads(home.ok("--config", "some.yaml", "config", "show", "--json"))
    shown = {row.pop("name"): row for row in report["settings"]}
    assert report["file"] == str(file)
    assert report["looper"] == {"url": None, "source": "local", "where": str(tmp_path / "home")}
    assert shown["serve.port"] == {"value": 9001, "source": "file", "where": f"{file}: serve.port"}
    assert shown["home"] == {"value": str(tmp_path / "home"), "source": "environment", "where": "LOOPER_HOME"}
    assert shown["serve.host"] == {"value": "127.0.0.1", "source": "default", "where": None}
    assert shown["synthesis.model.api_key"]["value"] == "***"
    lines = home.ok("--config", "some.yaml", "config", "show").splitlines()
    assert lines[:2] == [f"settings file: {file}", f"commands work on: this machine ({tmp_path / 'home'})"]
    assert any(line.split() == ["serve.port", "9001", f"{file}:", "serve.port"] for line in lines)
    assert any(line.split() == ["serve.pools", "[]", "default"] for line in lines)


def test_config_flag_overrides_variable_overrides_working_directory(home: Home, tmp_path: Path) -> None:
    for name in ("looper", "variable", "flag"):
        (tmp_path / f"{name}.yaml").write_text(f"base: {name}\n")

    def base(*arguments: str, config: str) -> str:
        completed = home.run(*arguments, "config", "show", "--json", LOOPER_CONFIG=config)
        return str({row["name"]: row["value"] for row in json.loads(completed.out)["settings"]}["base"])

    assert base(config="") == "looper"
    assert base(config="variable.yaml") == "variable"
    assert base("--config", "flag.yaml", config="variable.yaml") == "flag"
    assert "gone.yaml does not exist" in home.refused("--config", "gone.yaml", "config", "show")


def test_every_command_refuses_a_variable_that_is_not_a_setting(home: Home) -> None:
    line = home.refused("tenant", "list", LOOPER_SREVE__PORT="1")
    assert line == "error: LOOPER_SREVE__PORT is not a setting: did you mean LOOPER_SERVE__PORT?"


def test_config_schema_describes_the_settings_file(home: Home) -> None:
    schema = json.loads(home.ok("config", "schema"))
    sections = {"store", "catalog", "synthesis", "consolidation", "serve", "cluster", "roles", "api"}
    assert set(schema["properties"]) == {"home", "base", "bases", *sections}
    assert schema["$defs"]["ServeSettings"]["properties"]["port"]["maximum"] == 65535
    assert schema["additionalProperties"] is False


def test_a_shell_can_complete_commands(home: Home) -> None:
    completed = home.run(_LOOPER_COMPLETE="complete_bash", COMP_WORDS="looper con", COMP_CWORD="1")
    assert completed.out.split() == ["consolidate", "config"]
    assert "--install-completion" in home.ok("--help")
