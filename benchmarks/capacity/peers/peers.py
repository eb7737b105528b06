"""The servers that are compared: Looper and the alternatives to it, with the same engine settings.

``processes`` runs ``python -m looper.benchmarks.capacity.peers.peers NAME FOLDER MODEL_DIR BASE S3_URL``, which starts
one peer, prints its endpoint as JSON, and stops it when standard input ends.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from looper.benchmarks.capacity.fixtures import CapacityFixtures, instance_name, peer_adapter_name
from looper.benchmarks.capacity.load.clients import PrepareAdapter
from looper.benchmarks.capacity.simulation.simulator import Cluster
from looper.platform.settings import ServeSettings
from looper.serve.cache.cache_sizes import lora_target_modules
from looper.serve.deployment.ray_app import find_free_port
from looper.serve.engine.engine_arguments import CPU_MAX_BATCHED_TOKENS, build_engine_settings
from looper.serve.gateway.app import DEFAULT_CONCURRENT_PER_SEQUENCE

CLUSTER = Cluster(
    seats=16,
    slots=16,
    in_memory=512,
    on_disk=3000,
    step_tokens=CPU_MAX_BATCHED_TOKENS,
    line=DEFAULT_CONCURRENT_PER_SEQUENCE * 16,
)
"""The engine of every peer: its maximum number of running sequences and of adapters in each tier."""

SERVE_SETTINGS = ServeSettings(
    max_model_len=512,
    max_num_seqs=CLUSTER.seats,
    max_loras=CLUSTER.slots,
    max_cpu_loras=CLUSTER.in_memory,
    max_disk_loras=CLUSTER.on_disk,
)
"""The same sizes as settings of Looper, from which the engine arguments of all peers follow."""

STOCK_RAY_SERVE_ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
}
"""Ray Serve's defaults of the variables that Looper changes."""

START_TIMEOUT_S = 600
"""Time within which a peer has to answer after its start."""


@dataclass(frozen=True)
class PeerEndpoint:
    """Where a peer answers, and how it names the adapters."""

    peer: str
    """Name of the peer."""
    url: str
    """URL of the server, without ``/v1``."""
    headers: dict[str, str]
    """HTTP headers that the server needs."""
    base: str
    """Model name of the base model."""
    model_template: str
    """Template of an adapter's model name: ``{instance}`` is Looper's name of it, ``{peer}`` that of the others."""

    def model_name(self, adapter: int | None) -> str:
        """Return the model name of an adapter.

        Args:
            adapter: Number of the adapter; None for the base model.

        Returns:
            The name to send as ``model``.
        """
        if adapter is None:
            return self.base
        return self.model_template.format(instance=instance_name(adapter), peer=peer_adapter_name(adapter))


@contextmanager
def serve_with_looper(fixtures: CapacityFixtures, s3_url: str) -> Iterator[PeerEndpoint]:
    """Run Looper with its gateway until the context ends.

    Args:
        fixtures: The adapters.
        s3_url: URL of the object store.

    Yields:
        The endpoint.
    """
    from looper.basemodel.node_copies import BaseModelSource
    from looper.cluster.local_ray import local_ray
    from looper.serve.deployment.ray_app import build_app, deploy, plan_cluster

    settings = fixtures.create_settings(s3_url, **SERVE_SETTINGS.model_dump(exclude={"port"}))
    with local_ray():
        app = build_app(settings, {settings.base: BaseModelSource(fixtures.model_dir)}, plan_cluster(settings))
        url = deploy(settings, app)
        yield PeerEndpoint("looper", url, {"authorization": f"Bearer {fixtures.api_key}"}, fixtures.base, "{instance}")


@contextmanager
def serve_with_ray_serve_llm(fixtures: CapacityFixtures, s3_url: str) -> Iterator[PeerEndpoint]:
    """Run stock Ray Serve LLM, which loads adapters from the same object store on demand, until the context ends.

    Args:
        fixtures: The adapters.
        s3_url: URL of the object store.

    Yields:
        The endpoint.
    """
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    from looper.cluster.local_ray import local_ray

    os.environ.update(STOCK_RAY_SERVE_ENVIRONMENT)
    config = LLMConfig(
        model_loading_config={"model_id": fixtures.base, "model_source": str(fixtures.model_dir)},
        engine_kwargs=_engine_arguments(fixtures.model_dir),
        accelerator_config={"kind": "cpu"},
        lora_config={
            "dynamic_lora_loading_path": "s3://peers",
            "max_num_adapters_per_replica": CLUSTER.in_memory,
        },
        deployment_config={"num_replicas": 1, "max_ongoing_requests": 4096},
        runtime_env={"env_vars": _peer_environment(s3_url)},
    )
    with local_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": (port := find_free_port())})
        serve.run(build_openai_app({"llm_configs": [config]}))
        yield PeerEndpoint("ray serve llm", f"http://127.0.0.1:{port}", {}, fixtures.base, f"{fixtures.base}:{{peer}}")


@contextmanager
def serve_with_vllm(fixtures: CapacityFixtures, s3_url: str) -> Iterator[PeerEndpoint]:
    """Run stock vLLM, which loads adapters at runtime from local folders, until the context ends.

    Args:
        fixtures: The adapters.
        s3_url: URL of the object store, which vLLM does not read adapters from.

    Yields:
        The endpoint.
    """
    arguments = _engine_arguments(fixtures.model_dir) | {
        "host": "127.0.0.1",
        "port": (port := find_free_port()),
        "served_model_name": fixtures.base,
    }
    flags = [part for name, value in arguments.items() for part in _format_flag(name, value)]
    command = ["vllm.entrypoints.openai.api_server", "--model", str(fixtures.model_dir), *flags]
    environment = _peer_environment(s3_url) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with _run_server(command, environment, port) as url:
        yield PeerEndpoint("vllm", url, {}, fixtures.base, "{peer}")


@contextmanager
def serve_with_peft(fixtures: CapacityFixtures, s3_url: str) -> Iterator[PeerEndpoint]:
    """Run PEFT, which switches adapters for each request and reads them from local folders, until the context ends.

    Args:
        fixtures: The adapters.
        s3_url: URL of the object store, which this server does not use.

    Yields:
        The endpoint.
    """
    command = ["looper.benchmarks.capacity.peers.peft_server", str(fixtures.model_dir), fixtures.base]
    command += [str(fixtures.buckets / "peers"), str(CLUSTER.in_memory), str(port := find_free_port())]
    with _run_server(command, {}, port) as url:
        yield PeerEndpoint("peft", url, {}, fixtures.base, "{peer}")


PEERS = {
    "looper": serve_with_looper,
    "ray serve llm": serve_with_ray_serve_llm,
    "vllm": serve_with_vllm,
    "peft": serve_with_peft,
}
"""All peers, by the name that the command line and the reports have."""


def _create_vllm_preparer(fixtures: CapacityFixtures) -> PrepareAdapter:
    """Return a function that loads an adapter over HTTP before its first request, as vLLM expects of its clients."""
    loading: dict[int, asyncio.Task[httpx.Response]] = {}

    async def prepare_adapter(client: httpx.AsyncClient, adapter: int) -> None:
        if adapter not in loading:
            body = {
                "lora_name": peer_adapter_name(adapter),
                "lora_path": str(fixtures.buckets / "peers" / peer_adapter_name(adapter)),
            }
            loading[adapter] = asyncio.create_task(client.post("/v1/load_lora_adapter", json=body))
        await asyncio.shield(loading[adapter])

    return prepare_adapter


ADAPTER_PREPARERS: dict[str, Callable[[CapacityFixtures], PrepareAdapter]] = {"vllm": _create_vllm_preparer}
"""Creates, for a peer whose clients have to load adapters, the function that they call before each request."""


def _engine_arguments(model_dir: Path) -> dict[str, Any]:
    """Return the arguments of Looper's engine, without its extension."""
    cores = os.sched_getaffinity(0)
    arguments = build_engine_settings(
        SERVE_SETTINGS, SERVE_SETTINGS, CLUSTER.slots, lora_target_modules(model_dir), "cpu", cores
    ).arguments
    del arguments["worker_extension_cls"]
    return arguments | {"max_cpu_loras": CLUSTER.in_memory}


def _format_flag(name: str, value: Any) -> list[str]:
    """Format an engine argument for vLLM's command line."""
    values = [] if value is True else value if isinstance(value, list) else [value]
    return [f"--{name.replace('_', '-')}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]


def _peer_environment(s3_url: str) -> dict[str, str]:
    """Return the environment of the other peers.

    Thread counts and how threads wait are left to vLLM, whose processes slow each other down otherwise.
    """
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": s3_url, "VLLM_PLUGINS": "", "TORCHDYNAMO_DISABLE": "1"}


@contextmanager
def _run_server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """Run a Python module that serves on ``port`` until the context ends; yield its URL once it answers."""
    server = subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment, stdout=sys.stderr)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, server, command[0])
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], name: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and server.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{name} did not start within {START_TIMEOUT_S} s (exit code {server.poll()}): see its log")


def main() -> None:
    """Run one peer until standard input ends."""
    name, folder, model_dir, base, s3_url = sys.argv[1:]
    keys = {name: value for name, value in _peer_environment(s3_url).items() if name.startswith("AWS")}
    os.environ.update(keys)
    with PEERS[name](CapacityFixtures(Path(folder), Path(model_dir), base), s3_url) as endpoint:
        print(json.dumps(asdict(endpoint)), flush=True)  # begins with ``peer``, which marks this line
        sys.stdin.read()


if __name__ == "__main__":
    main()
