"""The cluster under test: ``looper up`` on PostgreSQL and S3, as a user starts it."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from looper.cluster.control import stop_cluster
from looper.cluster.state import log_path, read_state
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from tests.chaos.clock import MovableClock
from tests.chaos.services import Postgres, S3Server, free_port
from tests.gate import LENIENT_GATE
from tests.serve.marks import single_token_base

ROLES = {
    "gateway": "ServeReplica:looper:gateway",
    "replica": "ServeReplica:looper:skills",
    "engine": "EngineCore",
    "downloader": "AdapterDownloader",
    "proxy": "ProxyActor",
    "controller": "ServeController",
    "head": "looper.cluster.head",
    "trainer": "RayTrainWorker",
}
"""Text in the command line of a process, by role."""


@dataclass(frozen=True)
class ChaosCluster:
    """The cluster, and everything by which it can be hurt."""

    settings: Settings
    base: Path
    catalog: Catalog
    """Past the proxy, for checks."""
    store: ObjectStore
    postgres: Postgres
    s3: S3Server
    clock: MovableClock
    disk: Path | None
    """Where the cluster's files are, if a file system of its own could be mounted there."""
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Address of the HTTP API. The port never changes."""
        return f"http://{self.settings.serve.host}:{self.settings.serve.port}"

    def start(self) -> None:
        """Start the cluster as a user does, and wait until it answers."""
        command = [sys.executable, "-m", "looper", "up", "--json"]
        ran = subprocess.run(command, env=os.environ | self.environment, check=False, stdout=subprocess.DEVNULL)
        if ran.returncode:
            log = log_path(self.settings).read_text()  # it will not outlive the run
            raise RuntimeError(f"the cluster did not start:\n{log[-8000:]}")

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the processes of each role."""
        state = read_state(self.settings)
        found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
        if state is None:
            return found
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(state.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    line = " ".join(process.cmdline())
                    for role in (role for role, text in ROLES.items() if text in line):
                        found[role].append(process)
        return found


@contextmanager
def chaos_cluster(folder: Path) -> Iterator[ChaosCluster]:
    """Prepare the services and settings of a cluster; end everything afterwards. ``start`` starts the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    base = single_token_base(folder / "base")
    home = folder / "home"
    disk = _mount(home)
    clock, postgres, s3 = MovableClock(folder), Postgres(folder / "postgres"), S3Server(folder / "s3.log")
    engine = {"kv_cache_gib": 0.25, "max_num_seqs": 4, "max_loras": 4, "max_lora_rank": 8}
    tree = {
        "home": str(home),
        "base": str(base),
        "catalog": {"url": postgres.url},
        "store": {"url": f"s3://{s3.BUCKET}/chaos", "endpoint_url": s3.url, "timeout_s": 5},
        "serve": engine | {"port": free_port(), "replicas": 2, "gateways": 2, "max_cpu_loras": 8, "max_disk_loras": 12},
        "consolidation": {"lease_s": 20, "checkpoint_interval_s": 2, "gate": LENIENT_GATE},
    }
    config = folder / "looper.yaml"
    config.write_text(yaml.safe_dump(tree))
    environment = s3.environment | clock.environment | {"LOOPER_CONFIG": str(config)}
    # The prepared base model must not outlive the run. vLLM's cache is kept, because it saves time.
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "VLLM_CACHE_ROOT": str(Path("~/.cache/vllm").expanduser())}
    os.environ.update(s3.environment)
    settings = load_settings(**tree)
    try:
        with closing(Catalog.open(load_settings(**tree | {"catalog": {"url": postgres.direct_url}}))) as catalog:
            store = ObjectStore.open(settings)
            yield ChaosCluster(settings, base, catalog, store, postgres, s3, clock, disk, environment)
    finally:
        stop_cluster(settings)
        s3.stop()
        postgres.stop()
        if disk:
            shutil.copytree(home / "logs", folder / "logs")
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _mount(home: Path) -> Path | None:
    """Mount a small file system of its own on ``home``, so that it can be filled. None, if that is not allowed."""
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2g,mode=0700", "tmpfs", str(home)]
    return home if subprocess.run(command, check=False, capture_output=True).returncode == 0 else None
