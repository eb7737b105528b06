"""Strict checks of what a cluster is started from: the chart, Serve configs, the file of ``ray up``.

KubeRay, Kubernetes and Ray ignore keys that they do not know, at least in part. Here each such key is a mistake.
``make lint`` runs this module as a program; the tests plant typos.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from helm_python import Chart, HelmError, lint
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from looper.platform.settings.roles import RoleSettings
from tests.test_rooms import ROOT

CHART = ROOT / "cluster" / "kubernetes" / "looper"
EXAMPLES = (None, CHART / "values-gpu.yaml")
"""Values files that come with the chart; None: the defaults, with what has no default."""

MINIMUM = {"store": {"url": "s3://skills/looper"}}
"""What has no default."""

RAY_UP = (ROOT / "cluster" / "ray_up" / "aws.yaml", ROOT / "cluster" / "ray_up" / "machines.yaml")

KUBERNETES = "1.34"
"""Version of Kubernetes whose core kinds the chart is checked against."""

OPERATOR_GROUPS = ("monitoring.coreos.com",)
"""Kinds of the Prometheus Operator: their definitions are not at hand, so nothing checks them strictly."""

ROLE_RESOURCES = tuple(f"looper_{role}" for role in RoleSettings.model_fields)
"""Resources that nodes of the chart and of ``ray up`` offer."""

RELEASE = "looper"
CRDS_VARIABLE = "KUBERAY_CRDS"


class ManifestError(Exception):
    """Something in a manifest is wrong. The message has its place."""


def find_crds() -> Path | None:
    """Return the folder of KubeRay's custom resource definitions, which are no part of the project."""
    folder = Path(os.environ.get(CRDS_VARIABLE) or ROOT.parent / "shared" / "data" / "kuberay-crds")
    return folder if folder.is_dir() else None


def make_strict(schema: Any) -> Any:
    """Return a JSON schema in which an object has no other properties than those that the schema lists."""
    if isinstance(schema, list):
        return [make_strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    strict = {name: make_strict(part) for name, part in schema.items()}
    is_open = strict.get("x-kubernetes-preserve-unknown-fields") or isinstance(strict.get("additionalProperties"), dict)
    if isinstance(strict.get("properties"), dict) and "type" in strict and not is_open:
        strict["additionalProperties"] = False
    if strict.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict


def check_schema(document: Any, validator: jsonschema.Draft202012Validator, what: str) -> None:
    """Raise a ``ManifestError`` with each place where ``document`` is not as the schema describes it."""
    errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        found = (f"{'.'.join(map(str, each.absolute_path)) or 'top level'}: {each.message[:300]}" for each in errors)
        raise ManifestError(f"{what}: {'; '.join(found)}")


@cache
def serve_config_validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(make_strict(ServeDeploySchema.model_json_schema()))


@cache
def custom_resource_validator(file: Path, version: str) -> jsonschema.Draft202012Validator:
    """Return a validator of the kind whose definition is in ``file``. The files are large, hence the loader in C."""
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == version)
    schema["properties"]["metadata"] = {}  # Kubernetes' own
    return jsonschema.Draft202012Validator(make_strict(schema))


@cache
def core_kind_validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """Return a validator of one of Kubernetes' own kinds, from the schemas in ``kubernetes_validate``."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], version)))
    folder = files(kubernetes_validate) / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    schema, definitions = (json.loads((folder / f"{each}.json").read_text()) for each in (name, "_definitions"))
    registry: Registry[Any] = Registry().with_resource("_definitions.json", DRAFT202012.create_resource(definitions))
    return jsonschema.Draft202012Validator(schema, registry=registry)


def check_serve_config(config: Mapping[str, Any]) -> None:
    """Check a Serve config by Ray's schema, and the arguments in it by Looper's settings."""
    check_schema(config, serve_config_validator(), "Serve config")
    parsed = ServeDeploySchema.model_validate(config)
    for application in parsed.applications:
        check_arguments(application.args)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check a tree of settings."""
    try:
        settings = load_settings(**arguments)
    except InvalidInput as error:
        raise ManifestError(f"arguments: {error.detail}") from error
    if wrong := set(settings.roles.model_dump(exclude_none=True).values()) - set(ROLE_RESOURCES):
        raise ManifestError(f"arguments: roles: no node offers {', '.join(sorted(wrong))}")


def check_custom_resource(document: Mapping[str, Any], crds: Path) -> None:
    """Check a RayService, RayJob or RayCluster against KubeRay's definitions."""
    group, _, version = str(document["apiVersion"]).partition("/")
    kind = str(document["kind"])
    check_schema(document, custom_resource_validator(crds / f"{group}_{kind.lower()}s.yaml", version), kind)


def check_core_kind(document: Mapping[str, Any]) -> None:
    """Check a document of one of Kubernetes' own kinds."""
    kind = str(document["kind"])
    check_schema(document, core_kind_validator(kind, str(document["apiVersion"])), kind)


def autoscaling_config(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Ray's autoscaler makes of the ``rayClusterConfig`` of a RayService, in a pod of its head."""
    resource = {"metadata": {"name": RELEASE, "namespace": "default"}, "spec": cluster}
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(json.loads(json.dumps(resource)))
    return config


def check_document(document: Mapping[str, Any], crds: Path | None) -> None:
    """Check a rendered document by all that is known of its kind."""
    group = str(document["apiVersion"]).partition("/")[0]
    if group == "ray.io":
        if crds:
            check_custom_resource(document, crds)
        if document["kind"] == "RayService":
            check_serve_config(yaml.safe_load(document["spec"]["serveConfigV2"]))
            autoscaling_config(document["spec"]["rayClusterConfig"])
            pods = document["spec"]["rayClusterConfig"]
        else:
            pods = document["spec"]["rayClusterSpec"]
        for each in (pods["headGroupSpec"], *pods.get("workerGroupSpecs", [])):
            check_core_kind({"apiVersion": "v1", "kind": "Pod", **each["template"]})
    elif group not in OPERATOR_GROUPS:
        check_core_kind(document)


def merge(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with those of ``more`` over them, as Helm merges values files."""
    merged = dict(values)
    for name, value in more.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def render(values: Mapping[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    """Render the chart, and return its documents. Raises a ``ManifestError`` where Helm refuses values or templates."""
    try:
        with Chart.load(chart) as loaded:
            merged = merge(MINIMUM, values)
            loaded.validate_schema(merged)
            texts = loaded.render(merged, name=RELEASE, namespace="default")
    except HelmError as error:
        raise ManifestError(f"chart: {error}") from error
    manifests = (text for name, text in sorted(texts.items()) if name.endswith(".yaml"))
    return [document for text in manifests for document in yaml.safe_load_all(text) if document]


def read_values(file: Path | None) -> dict[str, Any]:
    """Return the values of a file; those of None are empty."""
    values: dict[str, Any] = yaml.safe_load(file.read_text()) if file else {}
    return values


def check_chart(values: Mapping[str, Any], crds: Path | None, chart: Path = CHART) -> None:
    """Lint the chart with ``values``, render it, and check each document."""
    report = lint(chart, merge(MINIMUM, values), strict=True, kube_version=f"v{KUBERNETES}.0")
    found = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]
    if found or report["errors"]:
        raise ManifestError(f"helm lint: {'; '.join(found or report['errors'])}")
    for document in render(values, chart):
        check_document(document, crds)


def check_ray_up(config: Mapping[str, Any]) -> None:
    """Check a file of ``ray up`` as ``ray up`` does, and that nodes have roles that there are."""
    prepared = prepare_config(json.loads(json.dumps(config)))
    try:
        validate_config(prepared)
    except (jsonschema.ValidationError, ValueError, RuntimeError) as error:
        raise ManifestError(f"ray up: {str(error).splitlines()[0]}") from error
    for name, node in prepared["available_node_types"].items():
        wrong = {each for each in node["resources"] if each.startswith("looper_")} - set(ROLE_RESOURCES)
        if wrong:
            raise ManifestError(f"ray up: available_node_types.{name}.resources: {', '.join(wrong)} is no role")


def check_all() -> Iterator[str]:
    """Check everything, and yield what was checked in words."""
    crds = find_crds()
    for file in EXAMPLES:
        check_chart(read_values(file), crds)
        yield f"chart with {file.name if file else 'its defaults'}"
    for file in RAY_UP:
        check_ray_up(yaml.safe_load(file.read_text()))
        yield str(file.relative_to(ROOT))
    if crds is None:
        yield f"not checked against KubeRay's definitions: set {CRDS_VARIABLE} to a folder with them"


if __name__ == "__main__":
    os.environ["LOOPER_CONFIG"] = os.devnull  # a settings file of whoever runs it decides nothing
    try:
        for line in check_all():
            print(line)
    except ManifestError as error:
        sys.exit(f"error: {error}")
