"""``looper serve-config``: what it prints is what Ray Serve takes, and has neither secrets nor this machine's paths."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import httpx
import pytest
import yaml
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.serve.schema import ApplicationStatus, ServeDeploySchema
from tenacity import (
    retry,
    retry_if_exception_type,
    retry_if_not_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from looper.cluster.serve_config import (
    IMPORT_PATH,
    build_serve_config,
    check_cluster_settings,
    format_serve_config,
    list_node_variables,
)
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings
from looper.serve.deployment.ray_app import find_free_port
from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from looper.serve.routing.known_replicas import APP_NAME
from tests.manifests.checks import ManifestError, check_serve_config
from tests.test_rooms import ROOT

CATALOG, STORE = "postgresql://looper:hunter2@db/looper", "s3://skills/looper"
GIVEN: dict[str, Any] = {
    "home": "/home/me/looper",
    "base": "Qwen/Qwen3-8B",
    "bases": [{"base": "org/large", "serve": {"replicas": 1, "max_lora_rank": 64}}],
    "catalog": {"url": CATALOG, "outage_s": 30},
    "store": {"url": STORE, "max_retries": 3},
    "synthesis": {"model": {"api_key": "sk-secret", "endpoint": "https://me:hunter3@models/v1"}},
    "consolidation": {"recipe": {"rank": 8}, "max_trainers": 2},
    "roles": {"engines": "looper_engines"},
    "cluster": {"address": "10.0.0.5:6379", "control_loops": 2},
    "serve": {"host": "127.0.0.1", "port": 9000, "pools": [{"max_lora_rank": 64, "replicas": 0, "max_replicas": 2}]},
}
SETTINGS = Settings.model_validate(GIVEN)


def test_arguments_are_the_settings_that_differ_without_secrets_and_without_this_machine() -> None:
    (application,) = build_serve_config(SETTINGS)["applications"]
    assert application["args"] == {
        "base": "Qwen/Qwen3-8B",
        "bases": [{"base": "org/large", "serve": {"replicas": 1, "max_lora_rank": 64}}],
        "catalog": {"outage_s": 30},
        "store": {"url": STORE},
        "consolidation": {"recipe": {"rank": 8}, "max_trainers": 2},
        "roles": {"engines": "looper_engines"},
        "cluster": {"control_loops": 2},
        "serve": {"pools": [{"max_lora_rank": 64, "replicas": 0, "max_replicas": 2}]},
    }
    assert (application["name"], application["import_path"]) == (APP_NAME, IMPORT_PATH)
    text = format_serve_config(SETTINGS)
    assert not any(secret in text for secret in ("hunter", "sk-secret", "/home/me"))
    node = {"catalog": {"url": CATALOG}, "home": "/home/me/looper", "synthesis": GIVEN["synthesis"]}
    built = Settings.model_validate(application["args"] | {"catalog": application["args"]["catalog"] | node["catalog"]})
    assert built.serve.pools == SETTINGS.serve.pools
    assert built.bases == SETTINGS.bases
    assert built.catalog == SETTINGS.catalog


def test_the_builder_is_there() -> None:
    module, _, name = IMPORT_PATH.partition(":")
    assert callable(getattr(import_module(module), name))


def test_the_comment_names_every_variable_that_a_node_needs() -> None:
    text = format_serve_config(SETTINGS)
    for name, value in RAY_ENVIRONMENT.items():
        assert f"#   {name}={value}\n" in text
    variables = list_node_variables(SETTINGS)
    assert list(variables)[:3] == [
        "LOOPER_CATALOG__URL",
        "LOOPER_SYNTHESIS__MODEL__ENDPOINT",
        "LOOPER_SYNTHESIS__MODEL__API_KEY",
    ]
    assert all(f"#   {name}: " in text for name in variables)


def test_rays_own_schema_takes_it() -> None:
    config = yaml.safe_load(format_serve_config(SETTINGS))
    assert config == build_serve_config(SETTINGS)
    parsed = ServeDeploySchema.model_validate(config)
    assert parsed.proxy_location == "EveryNode"
    assert (parsed.http_options.host, parsed.http_options.port) == ("0.0.0.0", 9000)
    check_serve_config(config)


def test_a_certificate_is_the_proxys() -> None:
    serve = GIVEN["serve"] | {"tls_cert": "/etc/looper/cert.pem", "tls_key": "/etc/looper/key.pem"}
    config = build_serve_config(Settings.model_validate(GIVEN | {"serve": serve}))
    assert config["http_options"]["ssl_certfile"] == "/etc/looper/cert.pem"
    assert "tls_cert" not in config["applications"][0]["args"]["serve"]
    ServeDeploySchema.model_validate(config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"catalog": {}}, "catalog.url is not set.*set LOOPER_CATALOG__URL to a PostgreSQL database"),
        ({"catalog": {"url": "sqlite:////shared/catalog.sqlite"}}, "catalog.url is sqlite:.*LOOPER_CATALOG__URL"),
        ({"store": {}}, "store.url is not set.*set LOOPER_STORE__URL to a bucket"),
        ({"store": {"url": "/mnt/store"}}, "store.url is /mnt/store, .*LOOPER_STORE__URL"),
        ({"store": {"url": "file:///mnt/store"}}, "store.url is file:///mnt/store, .*LOOPER_STORE__URL"),
        ({"serve": {"port": 0}}, "serve.port is 0.*name a port"),
        ({"serve": {"engine": {"hf_token": "hf_1"}}}, "hf_token is a secret.*HF_TOKEN"),
        ({"bases": [{"base": "b", "serve": {"engine": {"hf_token": "hf_1"}}}]}, "hf_token is a secret.*HF_TOKEN"),
    ],
)
def test_what_cannot_work_on_several_nodes_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        check_cluster_settings(Settings.model_validate(GIVEN | given))
    assert "hf_1" not in str(refused.value)


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    unset = ("RAY_", "LOOPER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.dashboard_ray"],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    with program:
        yield program.stdout.readline().strip()
        program.stdin.close()


@retry(retry=retry_if_not_result(bool), wait=wait_fixed(0.2), stop=stop_after_delay(120))
def _wait_until_running(client: ServeSubmissionClient) -> bool:
    application = client.get_serve_details()["applications"][APP_NAME]
    assert application["status"] not in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY), application
    return bool(application["status"] == ApplicationStatus.RUNNING)


# On a busy machine Ray's controller replaces a proxy that is slow to start, and the request fails. KubeRay repeats it.
@retry(retry=retry_if_exception_type(RuntimeError), stop=stop_after_attempt(5), reraise=True)
def _deploy(client: ServeSubmissionClient, config: dict[str, Any]) -> None:
    client.deploy_applications(config)


def test_a_live_ray_runs_it_as_kuberay_has_it_run(dashboard: str) -> None:
    """KubeRay, too, sends the config as JSON in one PUT to the dashboard."""
    settings = Settings.model_validate(GIVEN | {"serve": {"port": find_free_port()}})
    config = build_serve_config(settings)
    config["applications"][0]["import_path"] = "tests.cluster.stand_in_app:build"
    client = ServeSubmissionClient(dashboard)
    _deploy(client, config)
    _wait_until_running(client)
    url = f"http://127.0.0.1:{settings.serve.port}/"
    answer = httpx.post(url, content=b"12345").json()
    assert answer["args"] == config["applications"][0]["args"]
    assert answer["bytes"] == 5
    needed = {name: value for name, value in RAY_ENVIRONMENT.items() if name.startswith("RAY_SERVE_")}
    assert needed.items() <= answer["environment"].items()
    # The proxy has Looper's middlewares: it refuses a body by its declared size, in OpenAI's form.
    connection = http.client.HTTPConnection("127.0.0.1", settings.serve.port, timeout=30)
    connection.request("POST", "/", headers={"content-length": str(10**12)})
    refused = connection.getresponse()
    assert (refused.status, set(json.load(refused))) == (413, {"error"})
    connection.close()
    with pytest.raises(RuntimeError, match="import_path"):
        client.deploy_applications({"applications": [config["applications"][0] | {"import_path": "no colon"}]})


@pytest.mark.parametrize(
    ("path", "wrong", "expected"),
    [
        ((), {"proxy_locations": "EveryNode"}, "proxy_locations"),
        (("http_options",), {"prot": 8000}, "prot"),
        (("applications", 0), {"import_pth": IMPORT_PATH}, "import_pth"),
        (("applications", 0, "args"), {"bse": "smollm2-135m"}, "did you mean base"),
        (("applications", 0, "args"), {"serve": {"max_lora_rnk": 16}}, "did you mean serve.max_lora_rank"),
    ],
)
def test_a_mistyped_key_is_found(path: tuple[str | int, ...], wrong: dict[str, Any], expected: str) -> None:
    config = build_serve_config(SETTINGS)
    part: Any = config
    for name in path:
        part = part[name]
    part.update(wrong)
    with pytest.raises(ManifestError, match=expected):
        check_serve_config(config)
