"""One real server for the whole test session: Ray Serve, vLLM and HTTP, on the tiny base model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
from ray import serve

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.serve.deployment.ray_app import deploy
from tests.serve.marks import mark_adapter, marked_base, marks
from tests.serve.published import publish_version

HELLO: Any = [{"role": "user", "content": "Please book the blue room."}]


@dataclass(frozen=True)
class Live:
    """A server, and the catalog and store behind it. Everyone in the session shares it: take a tenant of your own."""

    settings: Settings
    base: Path
    catalog: Catalog
    store: ObjectStore
    url: str

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def tenant(self, name: str) -> openai.OpenAI:
        """A client of the tenant ``name``, which is made if it is new."""
        if name not in self.catalog.tenants():
            self.catalog.create_tenant(name)
        return self.client(issue_key(self.catalog, name))

    def publish(self, instance: InstanceName, number: int, *, rank: int = 8) -> str:
        """Publish an adapter that says a mark of its own as the instance's ``prod``; return the digest.

        In bfloat16, what random weights find likeliest may hang on what else is in the batch; a mark does not.
        """
        tokens = marks(self.base)
        adapter = mark_adapter(self.base, instance, tokens[number % len(tokens)], rank=rank)
        return publish_version(self.catalog, self.store, instance, adapter)


def ask(client: openai.OpenAI, model: str, **more: Any) -> tuple[str, str]:
    """What ``model`` says, and the version that said it."""
    asked = {"max_tokens": 12, "temperature": 0, "messages": HELLO, **more}
    raw = client.chat.completions.with_raw_response.create(model=model, **asked)
    answer = raw.parse()
    assert answer.model == model
    return answer.choices[0].message.content or "", raw.headers.get("x-looper-version", "")


def processes(name: str) -> list[psutil.Process]:
    """Those of this session's Ray that are called so; other sessions on the machine have theirs."""
    return [process for process in psutil.Process().children(recursive=True) if name in _called(process)]


def _called(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return ""


@contextmanager
def serving(home: Path, *, replicas: int = 1, max_replicas: int | None = None) -> Iterator[Live]:
    """Start the server on the Ray of this process, and end it."""
    base = marked_base(home / "base")
    settings = load_settings(
        home=home / "home",
        base="tiny",
        serve={
            "port": 0,
            "kv_cache_gib": 0.25,
            "max_num_seqs": 4,
            "max_loras": 4,
            "max_lora_rank": 8,
            "max_cpu_loras": 5,
            "max_disk_loras": 6,
            "replicas": replicas,
            "max_replicas": max_replicas,
        },
    )
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    try:
        yield Live(settings, base, catalog, store, deploy(settings, base))
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        catalog.close()
