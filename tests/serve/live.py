"""One real server for the whole test session: Ray Serve, vLLM and HTTP, on the tiny base model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from ray import serve

from looper.basemodel.node_copies import BaseModelSource
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.deployment.ray_app import build_app, deploy, plan_cluster
from tests.gate import LENIENT_GATE
from tests.planted_secrets import FOLDERS, PLANTED, plant
from tests.serve.marks import distinct_tokens, single_token_adapter, single_token_base
from tests.serve.published import publish_version

HELLO: Any = [{"role": "user", "content": "Please book the blue room."}]


@dataclass(frozen=True)
class LiveServer:
    """A running server with its catalog and store. The whole session shares it, so each test uses its own tenant."""

    settings: Settings
    base: Path
    catalog: Catalog
    store: ObjectStore
    url: str

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def tenant(self, name: str) -> openai.OpenAI:
        """Return a client of the tenant ``name``, which is created if it does not exist."""
        if name not in self.catalog.list_tenants():
            self.catalog.create_tenant(name)
        key = issue_key(self.catalog, name)
        plant("secret of a key", key.rpartition("_")[2])
        return self.client(key)

    def read_metrics(self) -> str:
        """Return the metrics of all gateways, as an operator sees them."""
        key = issue_key(self.catalog, None, scopes={Scope.METRICS})
        response = httpx.get(f"{self.url}/metrics", headers={"authorization": f"Bearer {key}"}, timeout=60)
        return response.raise_for_status().text

    def publish(self, instance: InstanceName, number: int, *, rank: int = 8) -> str:
        """Publish an adapter that generates a token of its own as the instance's ``prod``; return the digest.

        Adapters with random weights would not do: in bfloat16, their most likely token can depend on the batch.
        """
        tokens = distinct_tokens(self.base)
        adapter = single_token_adapter(self.base, instance, tokens[number % len(tokens)], rank=rank)
        return publish_version(self.catalog, self.store, instance, adapter)


def send_chat(client: openai.OpenAI, model: str, **more: Any) -> tuple[str, str]:
    """Send a chat request; return the text of the response and the digest of the version."""
    body = {"max_tokens": 12, "temperature": 0, "messages": HELLO, **more}
    raw = client.chat.completions.with_raw_response.create(model=model, **body)
    response = raw.parse()
    assert response.model == model
    return response.choices[0].message.content or "", raw.headers.get("x-looper-version", "")


def find_processes(name: str) -> list[psutil.Process]:
    """Return the processes of this session's Ray whose command line contains ``name``."""
    return [process for process in psutil.Process().children(recursive=True) if name in _command_line(process)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended in the meantime
        return ""


@contextmanager
def run_server(
    home: Path,
    *,
    replicas: int = 1,
    gateways: int = 2,
    max_replicas: int | None = None,
    base: Path | None = None,
    max_model_len: int = 2048,
) -> Iterator[LiveServer]:
    """Run the server on the Ray of this process while the context is open, on ``single_token_base`` by default."""
    base = base or single_token_base(home / "base")
    settings = load_settings(
        home=home / "home",
        base="tiny",
        consolidation={"gate": LENIENT_GATE},
        synthesis={"model": {"api_key": PLANTED["model key"]}},  # nothing uses it: it travels with the settings
        serve={
            "port": 0,
            "kv_cache_gib": 0.25,
            "max_num_seqs": 4,
            "max_loras": 4,
            "max_lora_rank": 8,
            "max_cpu_loras": 5,
            "max_disk_loras": 6,
            "replicas": replicas,
            "gateways": gateways,
            "max_replicas": max_replicas,
            "max_model_len": max_model_len,
        },
    )
    FOLDERS.add(settings.home)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    try:
        yield LiveServer(
            settings,
            base,
            catalog,
            store,
            deploy(settings, build_app(settings, {settings.base: BaseModelSource(base)}, plan_cluster(settings))),
        )
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        catalog.close()
