"""Peers and their store, in processes of their own, for as long as they are measured."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from looper.benchmarks.capacity.fixtures import CapacityFixtures
from looper.benchmarks.capacity.peers.peers import Endpoint
from looper.platform.domain.errors import LooperError
from looper.serve.deployment.ray_app import free_port

EVEN = {"RAY_worker_niceness": "0"}
"""Ray gives its workers a lower priority than the load's clients and other peers have, on the same cores."""


class PeerProcess:
    """A peer in a process of its own, started when it is needed first."""

    def __init__(self, peer: str, world: CapacityFixtures, store: str, notify: Callable[[str], None]) -> None:
        self._command = [sys.executable, "-m", "looper.benchmarks.capacity.peers.peers", peer]
        self._command += [str(world.folder), str(world.model_dir), world.base, store]
        self.peer = peer
        self._log = world.folder / f"{peer.replace(' ', '-')}.log"
        self._notify = notify
        self._process: subprocess.Popen[str] | None = None
        self._endpoint: Endpoint | None = None

    def get(self) -> Endpoint:
        if self._endpoint is None:
            self._notify(f"{self.peer} starts")
            with self._log.open("w") as log:
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                self._process = subprocess.Popen(self._command, env=os.environ | EVEN, text=True, **pipes)
            assert self._process.stdout
            for line in self._process.stdout:  # libraries print there, too
                if line.startswith('{"peer"'):
                    self._endpoint = Endpoint(**json.loads(line))
                    break
            else:
                raise LooperError(f"{self.peer} did not start: {self._log} says why")
        return self._endpoint

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = self._endpoint = None


@contextmanager
def s3(buckets: Path) -> Iterator[str]:
    """The store of all peers, for as long as the ``with`` lasts."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "looper.benchmarks.capacity.peers.s3_server", str(buckets), str(port)]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            client.get(f"{url}/looper")
        yield url
    finally:
        server.terminate()
        server.wait()
