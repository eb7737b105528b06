"""Settings: the sources and their order, messages for mistakes, secrets, and the reference page."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.settings import Settings, Source, load_settings, load_with_sources
from looper.platform.settings.reference import write_reference

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory of a user whose home folder is empty, too."""
    monkeypatch.delenv("LOOPER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def refused(**flags: object) -> str:
    """Return the one line with which these settings are refused."""
    with pytest.raises(InvalidInput) as caught:
        load_settings(**flags)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_home_in_the_users_folder_is_that_of_each_user_on_each_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    usual, other = (pickle.dumps(load_settings(**given)) for given in ({}, {"home": "/data/looper"}))
    monkeypatch.setenv("HOME", str(tmp_path / "there"))
    assert pickle.loads(usual).home == tmp_path / "there" / ".looper"  # noqa: S301 (made above)
    assert pickle.loads(other).home == Path("/data/looper")  # noqa: S301


def test_flags_override_environment_overrides_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("looper.yaml").write_text("base: from-file\nserve: {port: 1, max_loras: 3}\n")
    assert load_settings().serve.port == 1
    monkeypatch.setenv("LOOPER_SERVE__PORT", "2")
    assert (load_settings().serve.port, load_settings().serve.max_loras) == (2, 3)
    assert load_settings(serve={"port": 4}).serve.port == 4
    assert load_settings().base == "from-file"


def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_SERVE__PORT", "many")
    with pytest.raises(InvalidInput, match=r"setting serve\.port = 'many'"):
        load_settings()


def test_a_recipe_with_a_rank_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, serve={"max_lora_rank": 8})
    settings.check_recipe(Recipe(rank=8))
    with pytest.raises(InvalidInput, match=r"rank 16 is above serve\.max_lora_rank 8"):
        settings.check_recipe(Recipe(rank=16))


def test_settings_import_nothing_heavy() -> None:
    program = "import looper.platform.settings, sys; print(sorted({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are passed to Ray's workers, which have another working directory."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(home="state", store={"url": "objects"})
    assert settings.home == tmp_path / "state"
    assert settings.store_url == str(tmp_path / "objects")
    assert load_settings().home.is_absolute()
    assert load_settings(store={"url": "s3://bucket/x"}).store_url == "s3://bucket/x"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("LOOPER_SREVE__PORT", "did you mean LOOPER_SERVE__PORT?"),
        ("LOOPER_SERVE_PORT", "did you mean LOOPER_SERVE__PORT?"),
        ("LOOPER_PORT", "did you mean LOOPER_SERVE__PORT?"),
        ("LOOPER_CONSOLIDATION__RECIPE__RNAK", "did you mean LOOPER_CONSOLIDATION__RECIPE__RANK?"),
        ("LOOPER_SERV", "did you mean LOOPER_SERVE?"),
        ("LOOPER_SERVE__POOLS__MAX_LORA_RANK", "did you mean LOOPER_SERVE__MAX_LORA_RANK?"),
        ("LOOPER_QQQQQQ", "looper config show lists all settings"),
    ],
)
def test_a_variable_that_is_not_a_setting_is_refused(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert refused() == f"{variable} is not a setting: {meant}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sreve: {port: 1}", "sreve in {file} is not a setting: did you mean serve?"),
        ("serve: {prot: 1}", "serve.prot in {file} is not a setting: did you mean serve.port?"),
        ("port: 1", "port in {file} is not a setting: did you mean serve.port?"),
        (
            "serve: {pools: [{max_lora_rnk: 64}]}",
            "serve.pools[].max_lora_rnk in {file} is not a setting: did you mean serve.max_lora_rank?",
        ),
        ("consolidation: {recipe: {rnak: 8}}", "did you mean consolidation.recipe.rank?"),
        ("serve: 8000", "serve in {file} is a section, not a value: put its settings below it"),
        ("serve: {port: [1}", "settings file {file}, line 1 is not YAML"),
        ("just words", "settings file {file} has no sections"),
    ],
)
def test_a_file_with_a_mistake_is_refused(text: str, message: str, folder: Path) -> None:
    (folder / "looper.yaml").write_text(text)
    assert message.replace("{file}", str(folder / "looper.yaml")) in refused()


def test_known_variables_that_are_not_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_URL", "http://somewhere")
    monkeypatch.setenv("LOOPER_KEY", "looper_x")
    load_settings()


def test_variables_of_kubernetes_for_a_service_named_looper_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_PORT", "tcp://10.0.0.1:8000")
    assert "LOOPER_PORT is not a setting" in refused()
    variables = (
        "LOOPER_SERVICE_HOST",
        "LOOPER_SERVICE_PORT_HTTP",
        "LOOPER_PORT_8000_TCP_ADDR",
        "LOOPER_API_SERVICE_PORT",
    )
    for name in (*variables, "KUBERNETES_SERVICE_HOST"):
        monkeypatch.setenv(name, "10.0.0.1")
    assert load_settings().serve.port == 8000
    monkeypatch.setenv("LOOPER_SREVE__PORT", "1")
    assert "LOOPER_SREVE__PORT is not a setting" in refused()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LOOPER_SERVE__PORT", "70000", "setting serve.port = '70000' ({by}): expected an integer from 0 to 65535"),
        ("LOOPER_SERVE__PORT", "", "setting serve.port = '' ({by}): expected an integer from 0 to 65535"),
        ("LOOPER_CONSOLIDATION__SHARDED", "perhaps", "= 'perhaps' ({by}): expected true or false"),
        ("LOOPER_CONSOLIDATION__HOLDOUT", "1", "= '1' ({by}): expected a number, above 0 and below 1"),
        ("LOOPER_CONSOLIDATION__RECIPE__METHOD", "full", "= 'full' ({by}): expected one of lora, rslora, lora+, dora"),
        ("LOOPER_CONSOLIDATION__RECIPE__STRATEGY", "luck", "= 'luck' ({by}): strategy 'luck' does not exist: choose"),
        ("LOOPER_SYNTHESIS__MODEL__STAGES", "judge", "{by} is not JSON: write a list as JSON, such as '[\"first\"]'"),
        ("LOOPER_SYNTHESIS__MODEL__STAGES", '["jugde"]', "= 'jugde' ({by}): expected a list, each one of judge, hind"),
        (
            "LOOPER_SERVE__POOLS",
            '[{"max_lora_rank": 0}]',
            "setting serve.pools.0.max_lora_rank = 0 ({by}): expected an",
        ),
        ("LOOPER_SERVE__REPLICAS", "0", "setting serve: replicas 0 needs max_replicas"),
    ],
)
def test_a_wrong_value_is_refused_with_its_source_and_what_is_expected(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert message.replace("{by}", variable) in refused()


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL", '{"api_key": "sk-secret",}')
    assert "secret" not in refused()
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL", '{"api_key": ["sk-secret"]}')
    assert "setting synthesis.model.api_key = '***' (LOOPER_SYNTHESIS__MODEL)" in refused()
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL", '{"api_key": "sk-secret"}')
    monkeypatch.setenv("LOOPER_CATALOG__URL", "postgresql://looper:secret@db/looper")
    shown = {row.name: row.value for row in load_with_sources().rows()}
    assert shown["synthesis.model.api_key"] == "***"
    assert shown["catalog.url"] == "postgresql://looper:***@db/looper"


def test_only_the_first_existing_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_with_sources().file is None
    ours, users, named = folder / "looper.yaml", folder.parent / "user/.looper/looper.yaml", folder / "other.yaml"
    users.parent.mkdir(parents=True)
    users.write_text("{base: users, serve: {port: 5}}")
    assert (load_with_sources().file, load_settings().base) == (users, "users")
    ours.write_text("base: ours")
    assert (load_with_sources().file, load_settings().base, load_settings().serve.port) == (ours, "ours", 8000)
    monkeypatch.setenv("LOOPER_CONFIG", "other.yaml")
    assert "settings file other.yaml does not exist" in refused()
    named.write_text("serve:\n  # nothing here\n")
    assert (load_with_sources().file, load_settings().base) == (named, "smollm2-135m")


def test_every_value_has_its_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "looper.yaml"
    file.write_text("serve: {port: 1, max_num_seqs: 4, max_model_len: 99}\n")
    monkeypatch.setenv("LOOPER_SERVE__MAX_NUM_SEQS", "5")
    monkeypatch.setenv("LOOPER_SERVE", '{"max_num_seqs": 6, "max_model_len": 100}')
    shown = {row.name: (row.value, row.source, row.where) for row in load_with_sources(serve={"port": 2}).rows()}
    assert shown["serve.port"] == (2, Source.FLAG, "serve.port")
    assert shown["serve.max_num_seqs"] == (5, Source.ENVIRONMENT, "LOOPER_SERVE__MAX_NUM_SEQS"), (
        "a variable of a setting overrides one of its section"
    )
    assert shown["serve.max_model_len"] == (100, Source.ENVIRONMENT, "LOOPER_SERVE")
    assert shown["serve.host"] == ("127.0.0.1", Source.DEFAULT, None)
    monkeypatch.delenv("LOOPER_SERVE")
    shown = {row.name: (row.value, row.source, row.where) for row in load_with_sources().rows()}
    assert shown["serve.max_model_len"] == (99, Source.FILE, f"{file}: serve.max_model_len")


def test_settings_survive_json_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ``looper up`` starts uses them, whatever its own folder and environment have."""
    monkeypatch.setenv("LOOPER_SYNTHESIS__MODEL__API_KEY", "sk-1")
    given = load_settings(serve={"port": 5, "pools": [{"max_lora_rank": 64}]}, base="b")
    (folder / "looper.yaml").write_text("base: [")
    monkeypatch.setenv("LOOPER_SREVE__PORT", "1")
    assert Settings.model_validate_json(given.model_dump_json()) == given


def test_the_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert page == write_reference(), "python -m looper.platform.settings.reference > docs/reference/settings.md"


def test_every_setting_is_described() -> None:
    assert "|  |" not in write_reference()
