"""Who serves the load: Looper, and what one would otherwise use, each in processes of its own with the same engine.

``python -m looper.benchmarks.capacity.peers.peers NAME FOLDER MODEL_DIR BASE S3_URL`` starts one, prints where it
answers as JSON, and ends with its input.
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

from looper.benchmarks.capacity.fixtures import CapacityFixtures, instance, peer_name
from looper.benchmarks.capacity.load.clients import Ready
from looper.benchmarks.capacity.simulation.simulator import Cluster
from looper.platform.settings import ServeSettings
from looper.serve.cache.cache_sizes import adapted
from looper.serve.deployment.ray_app import free_port
from looper.serve.engine.engine_arguments import CPU_STEP_TOKENS, engine_settings
from looper.serve.gateway.app import LINE

CLUSTER = Cluster(seats=16, slots=16, in_memory=512, on_disk=3000, step_tokens=CPU_STEP_TOKENS, line=LINE * 16)
"""Of every peer: one engine, with so many requests in a batch and so many adapters."""

SERVE = ServeSettings(
    max_model_len=512,
    max_num_seqs=CLUSTER.seats,
    max_loras=CLUSTER.slots,
    max_cpu_loras=CLUSTER.in_memory,
    max_disk_loras=CLUSTER.on_disk,
)

STOCK = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
}
"""What Looper has Ray Serve do in a way of its own, as Ray Serve has it."""

READY_S = 600
"""For a peer to start in."""


@dataclass(frozen=True)
class Endpoint:
    """Where a peer answers, and what it calls the adapters."""

    peer: str
    url: str
    headers: dict[str, str]
    base: str
    pattern: str
    """Of an adapter's model name; ``{instance}`` is Looper's name of it, ``{peer}`` the peers'."""

    def model(self, adapter: int | None) -> str:
        if adapter is None:
            return self.base
        return self.pattern.format(instance=instance(adapter), peer=peer_name(adapter))


@contextmanager
def looper(world: CapacityFixtures, s3: str) -> Iterator[Endpoint]:
    from looper.cluster.local_ray import local_ray
    from looper.serve.deployment.ray_app import deploy

    settings = world.settings(s3, **SERVE.model_dump(exclude={"port"}))
    with local_ray():
        url = deploy(settings, world.model_dir)
        yield Endpoint("looper", url, {"authorization": f"Bearer {world.key}"}, world.base, "{instance}")


@contextmanager
def ray_serve_llm(world: CapacityFixtures, s3: str) -> Iterator[Endpoint]:
    """Stock Ray Serve LLM with dynamic loading from the same store."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    from looper.cluster.local_ray import local_ray

    os.environ.update(STOCK)
    config = LLMConfig(
        model_loading_config={"model_id": world.base, "model_source": str(world.model_dir)},
        engine_kwargs=_arguments(world.model_dir),
        accelerator_config={"kind": "cpu"},
        lora_config={
            "dynamic_lora_loading_path": "s3://peers",
            "max_num_adapters_per_replica": CLUSTER.in_memory,
        },
        deployment_config={"num_replicas": 1, "max_ongoing_requests": 4096},
        runtime_env={"env_vars": _environment(s3)},
    )
    with local_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": (port := free_port())})
        serve.run(build_openai_app({"llm_configs": [config]}))
        yield Endpoint("ray serve llm", f"http://127.0.0.1:{port}", {}, world.base, f"{world.base}:{{peer}}")


@contextmanager
def vllm(world: CapacityFixtures, s3: str) -> Iterator[Endpoint]:
    """Stock vLLM with adapters loaded at runtime, from local folders: it has no store."""
    arguments = _arguments(world.model_dir) | {
        "host": "127.0.0.1",
        "port": (port := free_port()),
        "served_model_name": world.base,
    }
    flags = [part for name, value in arguments.items() for part in _flag(name, value)]
    command = ["vllm.entrypoints.openai.api_server", "--model", str(world.model_dir), *flags]
    environment = _environment(s3) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with _server(command, environment, port) as url:
        yield Endpoint("vllm", url, {}, world.base, "{peer}")


@contextmanager
def peft(world: CapacityFixtures, s3: str) -> Iterator[Endpoint]:
    """PEFT, switching adapters for each request, from local folders."""
    command = ["looper.benchmarks.capacity.peers.peft_server", str(world.model_dir), world.base]
    command += [str(world.buckets / "peers"), str(CLUSTER.in_memory), str(port := free_port())]
    with _server(command, {}, port) as url:
        yield Endpoint("peft", url, {}, world.base, "{peer}")


PEERS = {"looper": looper, "ray serve llm": ray_serve_llm, "vllm": vllm, "peft": peft}


def _load_into_vllm(world: CapacityFixtures) -> Ready:
    """Load an adapter over HTTP before the first request for it, as vLLM leaves it to its clients."""
    loading: dict[int, asyncio.Task[httpx.Response]] = {}

    async def ready(client: httpx.AsyncClient, adapter: int) -> None:
        if adapter not in loading:
            body = {"lora_name": peer_name(adapter), "lora_path": str(world.buckets / "peers" / peer_name(adapter))}
            loading[adapter] = asyncio.create_task(client.post("/v1/load_lora_adapter", json=body))
        await asyncio.shield(loading[adapter])

    return ready


READY: dict[str, Callable[[CapacityFixtures], Ready]] = {"vllm": _load_into_vllm}
"""What clients of a peer do before each request, where it leaves that to them."""


def _arguments(model_dir: Path) -> dict[str, Any]:
    """Of the same engine, without what is Looper's."""
    cores = os.sched_getaffinity(0)
    arguments = engine_settings(SERVE, SERVE, CLUSTER.slots, adapted(model_dir), "cpu", cores).arguments
    del arguments["worker_extension_cls"]
    return arguments | {"max_cpu_loras": CLUSTER.in_memory}


def _flag(name: str, value: Any) -> list[str]:
    """As vLLM's command line has it."""
    values = [] if value is True else value if isinstance(value, list) else [value]
    return [f"--{name.replace('_', '-')}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]


def _environment(s3: str) -> dict[str, str]:
    """Of the others: threads and how they wait are left to vLLM, whose processes are in each other's way otherwise."""
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}
    return keys | {"AWS_ENDPOINT_URL": s3, "VLLM_PLUGINS": "", "TORCHDYNAMO_DISABLE": "1"}


@contextmanager
def _server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """A module of Python that serves on ``port``, for as long as the ``with`` lasts; its URL, once it answers."""
    server = subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment, stdout=sys.stderr)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, server, command[0])
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], name: str) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and server.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{name} did not start; it ended with {server.poll()}")


def main() -> None:
    name, folder, model_dir, base, s3 = sys.argv[1:]
    keys = {name: value for name, value in _environment(s3).items() if name.startswith("AWS")}
    os.environ.update(keys)
    with PEERS[name](CapacityFixtures(Path(folder), Path(model_dir), base), s3) as endpoint:
        print(json.dumps(asdict(endpoint)), flush=True)  # ``peer`` comes first, by which it is found among other lines
        sys.stdin.read()


if __name__ == "__main__":
    main()
