"""Writes the config of Ray Serve that runs Looper on a Ray cluster which exists.

``looper serve-config`` prints it. ``serve deploy``, a ``PUT`` to Ray's dashboard and KubeRay's RayService take it, and
the cluster then calls ``IMPORT_PATH`` itself, so that no other process has to stay. Values that are secret, or that
hold for one node only, stay in the environment of the nodes: ``list_node_variables`` names their variables.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import yaml

from looper.cluster.public_settings import CATALOG_URL, is_secret, list_changed
from looper.cluster.several_nodes import find_unshared, require_fixed_port
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings
from looper.platform.settings.names import settings_by_path, variable_of
from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from looper.serve.deployment.tls import http_options
from looper.serve.routing.known_replicas import APP_NAME

IMPORT_PATH = "looper.cluster.app:build"
"""Builder of the application. Ray Serve imports it on a node of the cluster and calls it with the arguments."""

_OF_THE_PROXY = frozenset({"serve.host", "serve.port", "serve.tls_cert", "serve.tls_key"})
"""Settings that are in ``http_options``: Ray Serve's proxies listen, on every node."""

_SECRET_ENGINE_OPTIONS = ("hf_token",)


def check_cluster_settings(settings: Settings) -> None:
    """Refuse settings that cannot work where several nodes share one catalog and one object store.

    Args:
        settings: Settings of the cluster.

    Raises:
        InvalidInput: The catalog is a file, the store is a folder, the port is a free one, or an engine's option is
            a secret. The message has the setting and the way out.
    """
    if problem := find_unshared(settings):
        raise InvalidInput(problem)
    require_fixed_port(settings)
    for base, option in product(settings.base_names, _SECRET_ENGINE_OPTIONS):
        if option in settings.for_base(base).serve.engine:
            raise InvalidInput(f"serve.engine: {option} is a secret: remove it, and set HF_TOKEN on every node")


def build_serve_config(settings: Settings) -> dict[str, Any]:
    """Return the config as Ray Serve's ``ServeDeploySchema`` describes it.

    Args:
        settings: Settings of the cluster. Those that differ from their defaults become arguments of the builder.

    Returns:
        Values that JSON and YAML can express.

    Raises:
        InvalidInput: As for ``check_cluster_settings``.
    """
    check_cluster_settings(settings)
    serve = settings.serve.model_copy(update={"host": "0.0.0.0"})  # clients and other nodes reach every proxy
    # A Ray whose nodes were started without these has them in the controller, its proxies, and the application.
    variables = {name: value for name, value in RAY_ENVIRONMENT.items() if name.startswith("RAY_SERVE_")}
    code = {"PYTHONPATH": settings.cluster.code} if settings.cluster.code else {}
    return {
        "proxy_location": "EveryNode",
        "http_options": http_options(serve, serve.port),
        "controller_options": {"runtime_env": {"env_vars": dict(variables)}},
        "applications": [
            {
                "name": APP_NAME,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "runtime_env": {"env_vars": variables | code},
                "args": _nest({path: value for path, value in list_changed(settings) if _is_argument(path, value)}),
            }
        ],
    }


def list_node_variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables that every node needs, because their values are in no file.

    Args:
        settings: Settings of the cluster.

    Returns:
        What each is for, by its name.
    """
    variables = {variable_of(CATALOG_URL): "URL of the catalog, with its password"}
    for path, value in list_changed(settings):
        if path != CATALOG_URL and is_secret(path, value):
            variables[variable_of(path)] = settings_by_path()[path].field.description or ""
    variables["AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"] = (
        "keys of the store, unless nodes have a role that may use it"
    )
    variables["HF_TOKEN"] = "token of the Hugging Face hub, if the base model needs one"
    variables[variable_of("home")] = "the node's own folder for scratch files, if ~/.looper is not to be it"
    return variables


def format_serve_config(settings: Settings) -> str:
    """Return the config as YAML, with a comment that says what each node needs besides.

    Args:
        settings: Settings of the cluster.

    Returns:
        The text of the file.

    Raises:
        InvalidInput: As for ``check_cluster_settings``.
    """
    config = yaml.safe_dump(build_serve_config(settings), sort_keys=False, width=120)
    return "\n".join([*_comments(settings), config])


def _comments(settings: Settings) -> Iterator[str]:
    yield "# Looper on Ray Serve: serve deploy looper-serve.yaml. Written by looper serve-config."
    yield "# Every node has Looper installed, and in its environment before `ray start`:"
    for name, value in RAY_ENVIRONMENT.items():
        yield f"#   {name}={value}"
    yield "# and these, which are secret or the node's own:"
    for name, purpose in list_node_variables(settings).items():
        yield f"#   {name}: {purpose}"


def _is_argument(path: str, value: Any) -> bool:
    return path not in _OF_THE_PROXY and not is_secret(path, value)


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value
    return tree
