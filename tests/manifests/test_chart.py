"""The Helm chart: what it renders is what KubeRay, Kubernetes, Ray and Looper take, and a typo is found."""

import json
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from looper.cluster.serve_config import build_serve_config
from looper.platform.settings import Settings
from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from tests.docs.commands import problems
from tests.manifests.checks import (
    CHART,
    CRDS_VARIABLE,
    EXAMPLES,
    ROLE_RESOURCES,
    ManifestError,
    autoscaling_config,
    check_chart,
    check_document,
    find_crds,
    merge,
    read_values,
    render,
)
from tests.test_rooms import ROOT

CRDS = find_crds()
EVERYTHING = read_values(CHART / "values-gpu.yaml")
RIGHT = render(EVERYTHING)
STORE = {"url": "s3://skills/looper"}

needs_crds = pytest.mark.skipif(CRDS is None, reason=f"{CRDS_VARIABLE} names no folder of KubeRay's definitions")


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def check_changed(chart: Path) -> None:
    """Check the documents that ``chart`` renders differently."""
    for document in render(EVERYTHING, chart):
        if document not in RIGHT:
            check_document(document, CRDS)


def cluster_of(values: dict[str, Any]) -> dict[str, Any]:
    cluster: dict[str, Any] = one(render(values), "RayService")["spec"]["rayClusterConfig"]
    return cluster


def pods_of(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clusters = [
        document["spec"].get("rayClusterConfig") or document["spec"]["rayClusterSpec"]
        for document in documents
        if document["apiVersion"] == "ray.io/v1"
    ]
    groups = [group for each in clusters for group in (each["headGroupSpec"], *each.get("workerGroupSpecs", []))]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name if file else "defaults")
def test_the_chart_is_right(file: Path | None) -> None:
    if CRDS is None:
        print("not checked against KubeRay's definitions")
    check_chart(read_values(file), CRDS)


@pytest.mark.parametrize(
    ("template", "right", "wrong", "expected"),
    [
        pytest.param("rayservice.yaml", "  rayClusterConfig:", "  rayClusterConfg:", "", marks=needs_crds),
        pytest.param("rayservice.yaml", "rayStartParams:", "rayStartParms:", "rayStartParms", marks=needs_crds),
        pytest.param("rayservice.yaml", "upscalingMode:", "upscaleMode:", "upscaleMode", marks=needs_crds),
        pytest.param("rayjob.yaml", "submissionMode:", "submissionMod:", "submissionMod", marks=needs_crds),
        ("rayservice.yaml", "containerPort: 8265", "containerPrt: 8265", "containerPrt"),
        ("rayservice.yaml", "terminationGracePeriodSeconds:", "terminationGracePeriod:", "terminationGracePeriod"),
        pytest.param("rayservice.yaml", " replicas: {{ .minReplicas }}", " replicas: many", "many", marks=needs_crds),
        ("_helpers.tpl", "volumeMounts:", "volumeMount:", "volumeMount"),
        ("networkpolicy.yaml", "podSelector:", "podSelektor:", "podSelektor"),
        ("poddisruptionbudget.yaml", "minAvailable:", "minAvailble:", "minAvailble"),
        ("ingress.yaml", "pathType:", "pathtype:", "pathtype"),
        ("rayservice.yaml", "proxy_location:", "proxy_locaton:", "proxy_locaton"),
        ("rayservice.yaml", "import_path:", "import_pth:", "import_pth"),
        ("rayservice.yaml", "host: 0.0.0.0, port", "host: 0.0.0.0, prt", "prt"),
        ("_helpers.tpl", '"url" (required', '"ulr" (required', "store.url"),
        (
            "_helpers.tpl",
            '$roles . (printf "looper_%s"',
            '$roles . (printf "loper_%s"',
            "no node offers .*loper_engines",
        ),
        ("rayservice.yaml", 'include "looper.rayResources"', 'include "looper.rayResourses"', "rayResourses"),
    ],
)
def test_a_typo_in_a_template_is_found(tmp_path: Path, template: str, right: str, wrong: str, expected: str) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "looper"))
    file = chart / "templates" / template
    assert right in file.read_text()
    file.write_text(file.read_text().replace(right, wrong))
    with pytest.raises(ManifestError, match=expected):
        check_changed(chart)


GROUP = {"name": "cpu", "roles": ["engines"], "minReplicas": 1, "maxReplicas": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"replicaCount": 2}, "replicaCount"),
        ({"ingress": {"hots": "looper.example.com"}}, "hots"),
        ({"ingress": {"enabled": "yes"}}, "/ingress/enabled"),
        ({"store": {"url": "/mnt/store"}}, "/store/url"),
        ({"store": {"url": "s3://key:secret@bucket"}}, "/store/url"),
        ({"catalog": {"secretName": ""}}, "/catalog/secretName"),
        ({"groups": [GROUP | {"roles": ["engine"]}]}, "/groups/0/roles/0"),
        ({"groups": [GROUP | {"minReplica": 1}]}, "minReplica"),
        ({"groups": [GROUP]}, "resources"),
        ({"head": {"resources": {"limits": {"cpu": 1, "memory": "4 GB"}}}}, "/head/resources/limits/memory"),
        ({"settings": {"home": "/mnt/looper"}}, "home"),
        ({"settings": {"sreve": {}}}, "sreve"),
        ({"settings": {"catalog": {"url": "postgresql://looper:secret@db/looper"}}}, "/settings/catalog/url"),
        ({"settings": {"synthesis": {"model": {"api_key": "sk-1"}}}}, "/settings/synthesis/model/api_key"),
        ({"jobs": [{"name": "x", "command": ["a'b"], "resources": {}}]}, "/jobs/0"),
        ({"autoscaling": {"version": "v3"}}, "/autoscaling/version"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ManifestError, match=expected):
        render(values)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"serve": {"replcas": 2}}, "did you mean serve.replicas"),
        ({"consolidation": {"max_trainers": 0}}, "consolidation.max_trainers = 0.*at least 1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ManifestError, match=expected):
        check_chart({"settings": settings}, CRDS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"store": {"url": ""}}, "store.url is not set"),
        ({"ingress": {"enabled": True, "host": "looper.example.com"}}, "ingress.tlsSecretName is not set"),
        ({"ingress": {"enabled": True, "tlsSecretName": "tls"}}, "ingress.host is not set"),
        (
            {"groups": [{**GROUP, "resources": {"limits": {"cpu": 1, "memory": "4Gi"}}}]},
            "no group has the role gateways",
        ),
        ({"groups": [EVERYTHING["groups"][0] | {"minReplicas": 9}, *EVERYTHING["groups"][1:]]}, "group cpu is above"),
    ],
)
def test_what_is_missing_or_contradicts_is_named(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ManifestError, match=expected):
        render(values)


def test_the_schema_knows_every_section_of_the_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {"home", "store", "roles"}  # values of their own, or no business of the chart
    assert set(Settings.model_fields) - own <= set(schema["properties"]["settings"]["properties"])


def test_every_pod_has_rays_environment_and_its_secrets_by_reference() -> None:
    for pod in pods_of(render(EVERYTHING)):
        (container,) = pod["containers"]
        given = {each["name"]: each.get("value") for each in container["env"]}
        assert {name: value for name, value in given.items() if name.startswith("RAY_")} == RAY_ENVIRONMENT
        references = {
            each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each
        }
        assert references["LOOPER_CATALOG__URL"] == {"name": "looper-catalog", "key": "url"}
        assert references["HF_TOKEN"] == {"name": "looper-hub", "key": "token"}
    keys = {"store": {**STORE, "secretName": "looper-store"}}
    for pod in pods_of(render(keys)):
        names = {each["name"] for each in pod["containers"][0]["env"] if "valueFrom" in each}
        assert names == {"LOOPER_CATALOG__URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_every_pod_is_confined_and_has_places_to_write() -> None:
    for pod in pods_of(render(EVERYTHING)):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert set(mounts) == {"/tmp", "/dev/shm", "/var/lib/looper", "/etc/looper"}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        home = {each["name"]: each.get("value", "") for each in container["env"]}
        assert all(home[name].startswith("/var/lib/looper") for name in ("HOME", "LOOPER_HOME", "XDG_CACHE_HOME"))


def test_the_user_of_the_image_is_the_one_of_the_pods() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (ROOT / name).read_text()
        assert f"USER {values['podSecurityContext']['runAsUser']}\n" in text
        assert " wget " in text  # of KubeRay's readiness probe
        assert "HOME=/var/lib/looper" in text


def test_rays_autoscaler_sees_the_roles_and_the_gpus() -> None:
    nodes = autoscaling_config(cluster_of(EVERYTHING))["available_node_types"]
    assert nodes["headgroup"]["resources"]["CPU"] == 0
    assert nodes["cpu"]["resources"].items() >= {"looper_gateways": 1000, "looper_control": 1000, "CPU": 8}.items()
    assert "looper_engines" not in nodes["cpu"]["resources"]
    assert nodes["l4"]["resources"].items() >= {"looper_engines": 1000, "GPU": 1, "accelerator_type:L4": 1}.items()
    assert (nodes["a100"]["min_workers"], nodes["a100"]["max_workers"]) == (2, 6)


def test_groups_of_engines_and_trainers_may_start_from_zero() -> None:
    groups = [group | ({} if group["name"] == "cpu" else {"minReplicas": 0}) for group in EVERYTHING["groups"]]
    cluster = cluster_of(EVERYTHING | {"groups": groups})
    replicas = {group["groupName"]: group["replicas"] for group in cluster["workerGroupSpecs"]}
    assert replicas == {"cpu": 2, "l4": 0, "a100": 0}
    nodes = autoscaling_config(cluster)["available_node_types"]
    needed = {"CPU": 1, "GPU": 1, "accelerator_type:L4": 0.001, "looper_engines": 0.001}  # of an engine
    fitting = [name for name, node in nodes.items() if all(node["resources"].get(r, 0) >= n for r, n in needed.items())]
    assert fitting == ["l4"], "Ray knows what a node would have, so it adds one of this group"
    assert nodes["l4"]["min_workers"] == 0


def test_a_shell_reads_the_resources_as_json() -> None:
    """KubeRay puts ``rayStartParams`` into a command line."""
    for group in cluster_of(EVERYTHING)["workerGroupSpecs"]:
        (argument,) = shlex.split(group["rayStartParams"]["resources"])
        assert set(json.loads(argument)) - set(ROLE_RESOURCES) <= {"accelerator_type:L4", "accelerator_type:A100"}


def test_the_application_is_that_of_looper_serve_config() -> None:
    tree = merge(EVERYTHING["settings"], {"catalog": {"url": "postgresql://db/looper"}, "store": STORE})
    expected = build_serve_config(Settings.model_validate(tree))
    config = yaml.safe_load(one(render(EVERYTHING), "RayService")["spec"]["serveConfigV2"])
    arguments = config["applications"][0]["args"]
    roles = arguments.pop("roles")
    assert sorted(roles.values()) == sorted(ROLE_RESOURCES)
    assert Settings.model_validate(arguments) == Settings.model_validate(expected["applications"][0]["args"])
    for variables in (expected, expected["applications"][0]):  # pods have them in their environment
        variables.pop("controller_options", None)
        variables.pop("runtime_env", None)
    assert {**config, "applications": [{**config["applications"][0], "args": {}}]} == {
        **expected,
        "applications": [{**expected["applications"][0], "args": {}}],
    }


def test_commands_in_pods_read_the_same_settings() -> None:
    documents = render(EVERYTHING)
    file = yaml.safe_load(one(documents, "ConfigMap")["data"]["looper.yaml"])
    config = yaml.safe_load(one(documents, "RayService")["spec"]["serveConfigV2"])
    assert file == config["applications"][0]["args"]
    job = one(documents, "RayJob")["spec"]
    assert problems(job["entrypoint"]) == []
    environment = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "LOOPER_CONFIG", "value": "/etc/looper/looper.yaml"} in environment


def test_a_node_without_a_replica_of_serve_is_ready_without_a_proxy() -> None:
    gpu = merge(EVERYTHING, {})
    gpu["groups"] = [*gpu["groups"], gpu["groups"][2] | {"name": "h100", "roles": ["trainers"]}]
    probes = {
        group["groupName"]: group["template"]["spec"]["containers"][0].get("readinessProbe")
        for group in cluster_of(gpu)["workerGroupSpecs"]
    }
    assert {name for name, probe in probes.items() if probe} == {"h100"}


def test_a_pod_that_ends_is_emptied_first_if_it_has_the_time() -> None:
    def hooks(grace_s: int) -> list[Any]:
        groups = cluster_of({"store": STORE, "groupDefaults": {"terminationGracePeriodSeconds": grace_s}})
        pods = [group["template"]["spec"] for group in groups["workerGroupSpecs"]]
        assert {pod["terminationGracePeriodSeconds"] for pod in pods} == {grace_s}
        return [pod["containers"][0].get("lifecycle") for pod in pods]

    command = ["python", "-m", "looper.cluster.drain_node", "--grace-s=290"]
    assert hooks(300) == [{"preStop": {"exec": {"command": command}}}]
    assert hooks(5) == [None]


def test_a_disruption_takes_one_pod_of_a_group_and_none_where_there_is_only_one() -> None:
    budgets = [each for each in render(EVERYTHING) if each["kind"] == "PodDisruptionBudget"]
    groups = [each["spec"]["selector"]["matchLabels"]["ray.io/group"] for each in budgets]
    assert groups == ["cpu", "a100"]
    assert [each["spec"]["minAvailable"] for each in budgets] == [1, 1]
    assert not [each for each in render({}) if each["kind"] == "PodDisruptionBudget"]


def test_a_new_version_of_the_chart_alone_makes_no_new_cluster(tmp_path: Path) -> None:
    """KubeRay makes one when the spec of the cluster changes."""
    chart = Path(shutil.copytree(CHART, tmp_path / "looper"))
    file = chart / "Chart.yaml"
    file.write_text(file.read_text().replace("\nversion: 0.1.0", "\nversion: 0.2.0"))
    assert one(render({}, chart), "RayService")["spec"]["rayClusterConfig"] == cluster_of({})


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    assert chart["appVersion"] == project["version"]
    assert f"ray[serve]=={values['rayVersion']}" in project["optional-dependencies"]["serve"]
