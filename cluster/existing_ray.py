"""Brings Looper up on a Ray that exists, and takes it down again: ``looper up --address`` and ``looper down``.

What runs afterwards are deployments of Ray Serve, so no process of this machine has to stay. That Ray is never stopped,
and other applications on it are left alone.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import ray
from ray import serve
from ray._private.services import find_bootstrap_address
from ray.exceptions import RayTaskError
from ray.serve.context import _get_global_client

from looper.cluster.app import build_on_cluster
from looper.cluster.cluster_status import EXISTING_RAY, ExistingRay, read_existing_ray
from looper.cluster.local_ray import silence_logs
from looper.cluster.migration import migrate_catalog
from looper.cluster.node_check import check_nodes
from looper.cluster.several_nodes import find_unshared, require_fixed_port
from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import DEPLOYED, REPORT
from looper.platform.domain.errors import InvalidInput, LooperError
from looper.platform.settings import Settings
from looper.platform.settings.roles import require_role
from looper.serve.deployment.ray_environment import RAY_ENVIRONMENT
from looper.serve.deployment.tls import http_options, trust_own_certificate
from looper.serve.routing.known_replicas import APP_NAME

CONNECT_TIMEOUT_S = 10.0
"""How long the address may take to accept a connection, in seconds."""

POLL_INTERVAL_S = 1.0
"""Seconds between two looks at the deployments while they start."""

HEALTH_TIMEOUT_S = 60.0
"""How long a gateway may take to answer once Ray Serve calls the application running, in seconds."""

_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION")
"""Variables of this process that Looper's processes on the nodes get, too, if they are set here."""


class Deployed(NamedTuple):
    """Where Looper answers."""

    urls: list[str]
    """URL of the HTTP API on each node that answers."""
    started_serve: bool
    """Whether Ray Serve was not running before."""


@contextmanager
def joined_ray(address: str, code: str | None) -> Iterator[None]:
    """Connect this process to a Ray that exists.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``ray://HOST:PORT``.
        code: Folder on every node with the Looper that runs there. None: the installed one.

    Yields:
        Nothing, while this process is connected.

    Raises:
        InvalidInput: There is no Ray at the address, or it is of another version.
    """
    _require_listening(address)
    silence_logs()
    variables = {**RAY_ENVIRONMENT, **{name: os.environ[name] for name in _CREDENTIALS if name in os.environ}}
    if code:
        variables["PYTHONPATH"] = code
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": variables},
        )
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and errors of its own
        raise InvalidInput(_explain_connection(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def bring_up(settings: Settings, address: str, on_progress: Callable[[str], None]) -> list[str]:
    """Deploy Looper on a Ray that exists, or update it in place.

    Args:
        settings: Settings of the cluster.
        address: Address of that Ray, as ``joined_ray`` takes it.
        on_progress: Called with what is going on.

    Returns:
        URLs of the HTTP API, one for each node that answers.

    Raises:
        InvalidInput: There is no such Ray, or the settings cannot work on it.
        LooperError: A node lacks something, or the application did not start.
    """
    require_fixed_port(settings)
    on_progress(f"joining the Ray at {address}")
    with joined_ray(address, settings.cluster.code):
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if len(nodes) > 1 and (problem := find_unshared(settings)):
            raise InvalidInput(problem)
        migrate_catalog(settings)
        catalog = Catalog.open(settings)
        on_progress(f"looking at {len(nodes)} nodes")
        _require_healthy(settings, nodes)
        deploy: Any = ray.remote(num_cpus=0, max_retries=0)(deploy_from_within)
        role = require_role(settings.roles.control)
        running = deploy.options(resources=role).remote(settings)
        while not ray.wait([running], timeout=POLL_INTERVAL_S)[0]:
            on_progress(_describe_deployments())
        try:
            deployed: Deployed = ray.get(running)
        except RayTaskError as error:
            raise _unwrap(error) from error
        before = read_existing_ray(catalog)
        started_serve = deployed.started_serve or (before is not None and before.started_serve)
        found = ExistingRay(address=address, urls=deployed.urls, started_serve=started_serve)
        catalog.save_cluster_report(EXISTING_RAY, found.model_dump(mode="json"))
    return deployed.urls


def take_down(settings: Settings, address: str) -> bool:
    """Delete Looper's application from a Ray that exists, and Ray Serve if it runs only because of Looper.

    Args:
        settings: Settings of the cluster.
        address: Address of that Ray.

    Returns:
        Whether Looper was running.

    Raises:
        InvalidInput: There is no Ray at the address, or it is of another version.
    """
    catalog = Catalog.open(settings)
    with joined_ray(address, settings.cluster.code):
        remove: Any = ray.remote(num_cpus=0, max_retries=0)(remove_from_within)
        before = read_existing_ray(catalog)
        was_running: bool = ray.get(remove.remote(before is not None and before.started_serve))
    if before is not None and before.address == address:  # there may be another one on the same catalog
        for name in (EXISTING_RAY, DEPLOYED, REPORT):
            catalog.delete_cluster_report(name)
    return was_running


def deploy_from_within(settings: Settings) -> Deployed:
    """Build and deploy the application, and wait until it answers. A task on the cluster runs it.

    Args:
        settings: Settings of the cluster.

    Returns:
        Where it answers.
    """
    started_serve = _get_global_client(raise_if_no_controller_running=False) is None
    options = http_options(settings.serve, settings.serve.port)
    serve.start(proxy_location="EveryNode", http_options=options)
    serve.run(build_on_cluster(settings), name=APP_NAME, route_prefix="/")
    client = _get_global_client()
    assert client is not None, "Ray Serve runs"
    found = client.http_config
    scheme = "https" if settings.serve.tls_cert else "http"
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
    answering = [addresses[id] for id, status in serve.status().proxies.items() if id in addresses]
    is_everywhere = found.host in ("0.0.0.0", "::", "")
    urls = [f"{scheme}://{address if is_everywhere else found.host}:{found.port}" for address in sorted(answering)]
    urls = list(dict.fromkeys(urls))
    if is_everywhere:
        _wait_for_gateway(settings, urls)
    return Deployed(urls, started_serve)


def remove_from_within(shut_down_serve: bool) -> bool:
    """Delete the application. A task on the cluster runs it.

    Args:
        shut_down_serve: Whether Ray Serve is shut down, too, if nothing else runs on it.

    Returns:
        Whether it was there.
    """
    if _get_global_client(raise_if_no_controller_running=False) is None:
        return False
    was_running = APP_NAME in serve.status().applications
    serve.delete(APP_NAME)
    if shut_down_serve and not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]
    return was_running


def _require_healthy(settings: Settings, nodes: list[Any]) -> None:
    """Raise if a node that Looper may use lacks something."""
    roles = list(settings.roles.model_dump().values())
    used = [node for node in nodes if None in roles or any(node["Resources"].get(role) for role in roles)]
    if not used:
        raise InvalidInput(
            f"no node offers any of the resources {', '.join(sorted(set(roles)))}: start nodes with them "
            "(ray start --resources), or correct the settings roles.*"
        )
    problems = [problem for found in check_nodes(settings, used).values() for problem in found]
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise LooperError(f"{problems[0]}{more}")


def _wait_for_gateway(settings: Settings, urls: list[str]) -> None:
    verify, deadline = trust_own_certificate(settings.serve), time.monotonic() + HEALTH_TIMEOUT_S
    waiting = list(urls)
    while waiting:
        try:
            httpx.get(f"{waiting[0]}/healthz", timeout=5, verify=verify).raise_for_status()
            waiting.pop(0)
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise LooperError(f"the gateway at {waiting[0]} does not answer: {error}") from error
            time.sleep(POLL_INTERVAL_S)


def _describe_deployments() -> str:
    try:
        app = serve.status().applications.get(APP_NAME)
    except Exception:  # Ray Serve is not running yet
        return "preparing the base model"
    if app is None:
        return "preparing the base model"
    unfinished = [found.message.splitlines()[0] for found in app.deployments.values() if found.message]
    states = [f"{name} {str(found.status.value).lower()}" for name, found in app.deployments.items()]
    return "; ".join([", ".join(states), *unfinished]) or "deploying"


def _unwrap(error: RayTaskError) -> LooperError:
    """Return what the task raised, if Looper raised it, or else Ray's reason in one line."""
    cause = error.cause
    if isinstance(cause, LooperError):
        return (InvalidInput if isinstance(cause, InvalidInput) else LooperError)(cause.detail)
    lines = [line for line in str(cause or error).strip().splitlines() if line.strip()]
    return LooperError(f"Looper did not start on the cluster: {lines[-1][:500] if lines else type(cause).__name__}")


def _require_listening(address: str) -> None:
    """Raise if nothing listens at the address. Ray would go on trying, and write a page about it."""
    if address == "auto":
        found = os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None)
        if not found:
            raise InvalidInput("no Ray runs on this machine: start one (ray start --head), or give its HOST:PORT")
        address = found
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidInput(f"{address!r} is no address of a Ray: give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot join a Ray at {address}: {reason}") from error


def _explain_connection(address: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if "ersion" in line), lines[0] if lines else type(error).__name__)
    if "ersion mismatch" in str(error):
        reason = f"it is of another version than Ray {ray.__version__} here: {' '.join(lines)[:400]}"
    return f"cannot join a Ray at {address}: {reason[:500]}"
