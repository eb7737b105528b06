"""Run the peers and their object store in processes of their own, for as long as they are measured.

``measurements`` calls this module, which starts ``peers`` and ``s3_server`` with ``python -m``.
"""

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
from looper.benchmarks.capacity.peers.peers import PeerEndpoint
from looper.platform.domain.errors import LooperError
from looper.serve.deployment.ray_app import find_free_port

RAY_ENVIRONMENT = {"RAY_worker_niceness": "0"}
"""By default Ray gives its workers a lower CPU priority than the clients and the other peers on the same cores have."""


class PeerProcess:
    """A peer in its own process, which starts when it is first needed.

    Attributes:
        peer: Name of the peer.
    """

    def __init__(self, peer: str, fixtures: CapacityFixtures, s3_url: str, notify: Callable[[str], None]) -> None:
        """Prepare the process without starting it.

        Args:
            peer: Name of the peer.
            fixtures: The adapters that the peer serves.
            s3_url: URL of the object store.
            notify: Called with a line of text when the process starts.
        """
        self._command = [sys.executable, "-m", "looper.benchmarks.capacity.peers.peers", peer]
        self._command += [str(fixtures.folder), str(fixtures.model_dir), fixtures.base, s3_url]
        self.peer = peer
        self._log = fixtures.folder / f"{peer.replace(' ', '-')}.log"
        self._notify = notify
        self._process: subprocess.Popen[str] | None = None
        self._endpoint: PeerEndpoint | None = None

    def get_endpoint(self) -> PeerEndpoint:
        """Start the process unless it is running, and wait until it answers.

        Returns:
            Where the peer answers.

        Raises:
            LooperError: The peer did not start.
        """
        if self._endpoint is None:
            self._notify(f"{self.peer} starts")
            with self._log.open("w") as log:
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                self._process = subprocess.Popen(self._command, env=os.environ | RAY_ENVIRONMENT, text=True, **pipes)
            assert self._process.stdout
            for line in self._process.stdout:  # libraries also print to it
                if line.startswith('{"peer"'):
                    self._endpoint = PeerEndpoint(**json.loads(line))
                    break
            else:
                raise LooperError(f"peer {self.peer!r} did not start: see its log {self._log}")
        return self._endpoint

    def stop(self) -> None:
        """Stop the process if it is running."""
        if self._process is not None:
            self._process.communicate()
            self._process = self._endpoint = None


@contextmanager
def run_s3_server(buckets: Path) -> Iterator[str]:
    """Run the object store of all peers until the context ends.

    Args:
        buckets: Parent of the buckets' folders.

    Yields:
        URL of the server.
    """
    port = find_free_port()
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
