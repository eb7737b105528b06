"""``python -m tests.chaos.neighbor``: what one tenant's worst requests do to the time that another waits.

For each attack, with 1 and with 64 connections, a tenant sends streamed requests one after another, alternately while
nobody attacks and while somebody does. The result is the ratio of both 95th percentiles of the time to first token.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import httpx

from looper.benchmarks.machine import describe_machine
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.tenancy import issue_key
from tests.chaos.cluster import chaos_cluster
from tests.chaos.hostile import ATTACKS
from tests.chaos.skills import publish_skills

BOUNDS = {1: 2.0, 64: 3.0}
"""Largest ratio that is fine, by number of connections."""


class Neighbor:
    """A tenant that asks politely and notes how long it waited."""

    def __init__(self, url: str, key: str, model: str) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: Address of the cluster.
            key: API key of the tenant.
            model: A skill of the tenant.
        """
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120)
        self._model = model
        self.failures = 0

    def measure(self, seconds: float) -> list[float]:
        """Send requests for a time; return the seconds to the first token of each."""
        waits, ends_at = [], time.monotonic() + seconds
        body = {"model": self._model, "prompt": "Please book", "max_tokens": 8, "stream": True, "ignore_eos": True}
        while time.monotonic() < ends_at:
            sent_at = time.monotonic()
            with self._http.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()
                if response.status_code == 200 and next(lines, None):
                    waits.append(time.monotonic() - sent_at)
                    for _ in lines:
                        pass
                else:
                    response.read()
                    self.failures += 1
            time.sleep(0.05)
        return waits


def _start_attack(url: str, key: str, model: str, name: str, connections: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.chaos.hostile", url, key, model, name, str(connections)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Measure all attacks, and write docs/results/neighbor.md."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is ended
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.neighbor", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="seconds of each measurement (20)")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="names of the attacks, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the page (docs/results)")
    arguments = parser.parse_args()
    lines = ["# What one tenant's worst requests do to another", ""]
    lines += ["Made by `python -m tests.chaos.neighbor`: " + describe_machine() + ".", ""]
    lines += ["| attack | connections | quiet TTFT p95 | beside it | ratio | bound | how the attack ended |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    with TemporaryDirectory(prefix="looper-neighbor-") as temporary:
        Path(temporary).chmod(0o755)  # PostgreSQL runs as another user
        with chaos_cluster(Path(temporary, "run")) as cluster:
            polite, hostile = publish_skills(cluster, ["polite", "hostile"], 1, 1)
            cluster.start()
            neighbor = Neighbor(cluster.url, issue_key(cluster.catalog, "polite"), str(polite.name))
            key = issue_key(cluster.catalog, "hostile", scopes=TENANT_SCOPES)
            neighbor.measure(5)
            for name in arguments.attacks.split(","):
                for connections, bound in BOUNDS.items():
                    quiet = neighbor.measure(arguments.seconds)
                    attack = _start_attack(cluster.url, key, str(hostile.name), name, connections)
                    neighbor.measure(2)
                    beside = neighbor.measure(arguments.seconds)
                    found = json.loads(attack.communicate()[0])
                    before, after = (
                        quantiles(waits, n=20)[-1] if len(waits) > 1 else 999.0 for waits in (quiet, beside)
                    )
                    outcomes = ", ".join(f"{outcome} {count}" for outcome, count in sorted(found["outcomes"].items()))
                    ratio = f"**{after / before:.2f}**" if after > bound * before else f"{after / before:.2f}"
                    row = name, connections, f"{before:.3f} s", f"{after:.3f} s", ratio, bound, outcomes
                    lines.append("| " + " | ".join(map(str, row)) + " |")
                    print(lines[-1], *found["errors"][:3], sep="\n", file=sys.stderr, flush=True)
            lines += ["", f"Requests of the polite tenant that failed: {neighbor.failures}."]
    (arguments.out / "neighbor.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
