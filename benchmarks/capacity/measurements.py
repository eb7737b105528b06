"""Measure peers under load, and keep each measurement as a file, so that nothing is measured twice.

``bench`` calls ``CapacityMeasurements``. It starts each peer in its own process and sends the loads to it.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from looper.benchmarks.capacity.experiments import EXPERIMENTS, FRESH_ADAPTERS, ExperimentContext
from looper.benchmarks.capacity.fixtures import CapacityFixtures
from looper.benchmarks.capacity.load.cases import (
    ADAPTER_COUNTS,
    COLD_ADAPTERS,
    COLD_TIMEOUT_S,
    LOAD_KINDS,
    MAX_PREWARM_S,
    MAX_PREWARMED_ADAPTERS,
    ROUNDS,
    LoadCase,
    cold_requests,
    load_cases,
    prewarm_requests,
)
from looper.benchmarks.capacity.load.clients import RequestResult, send_load
from looper.benchmarks.capacity.load.metrics import LoadMetrics, compute_metrics
from looper.benchmarks.capacity.load.workload import LoadSpec, WorkloadRequest, generate_requests
from looper.benchmarks.capacity.peers.peers import ADAPTER_PREPARERS, CLUSTER, PEERS, PeerEndpoint
from looper.benchmarks.capacity.peers.processes import PeerProcess, run_s3_server
from looper.benchmarks.capacity.results import CapacityRound, CapacityRow
from looper.benchmarks.capacity.simulation.calibrate import calibrate
from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts
from looper.platform.catalog import Catalog
from looper.platform.settings import load_settings

FIRST_RATE_PER_S = 2.0
"""Request rate of the first load that looks for the rate which Looper sustains.

The rate is doubled until Looper answers less than ``SATURATED_SHARE`` of it. A much higher rate would cost clients and
gateway the cores that the engine computes on.
"""
SATURATED_SHARE = 0.7
"""Share of the requests below which a server counts as saturated."""


class CapacityMeasurements:
    """All measurements of one output folder. A measurement whose file exists is not repeated."""

    def __init__(self, out: Path, fixtures: CapacityFixtures, seconds: float, notify: Callable[[str], None]) -> None:
        """Use an output folder.

        Args:
            out: Folder for the measurements.
            fixtures: The adapters that the peers serve.
            seconds: Duration of each load.
            notify: Called with a line of text before each step.
        """
        self._out = out
        self._fixtures = fixtures
        self._seconds = seconds
        self._notify = notify
        self._vocab_size = json.loads((fixtures.model_dir / "config.json").read_bytes())["vocab_size"]

    def measure_peers(self, peers: Sequence[str], counts: Sequence[int]) -> None:
        """Measure the full, steady and cold loads of each peer.

        Looper is measured first if it is among the peers, because the first peer determines the rates of all loads.

        Args:
            peers: Names of the peers.
            counts: Numbers of adapters, one load after another.
        """
        max_count = max(counts)
        self._notify(f"{max_count + COLD_ADAPTERS * ROUNDS} adapters")
        self._fixtures.ensure_adapters(max_count + COLD_ADAPTERS * ROUNDS)
        with run_s3_server(self._fixtures.buckets) as s3_url:
            for peer in sorted(peers, key=lambda peer: peer != "looper"):
                with self._peer_process(peer, s3_url) as process:
                    cases = load_cases(peer, counts, self._sustained_rate(process), self._seconds)
                    # One round of every load, then the next round: a change of the machine's speed affects all loads.
                    missing = [
                        (case.with_seed(number), file)
                        for number in range(ROUNDS)
                        for case in cases
                        if not (file := self._file(case.name, number)).exists()
                    ]
                    if missing:
                        self._prewarm(process, max_count)
                    for case, file in missing:
                        self._notify(f"{case.name}, {case.load.seed + 1} of {ROUNDS}")
                        _save_round(self._measure_load(case, process), file)
                    for number in range(ROUNDS):
                        file = self._file(f"{peer}, cold", number)
                        if not file.exists():
                            self._notify(f"{peer}, cold, {number + 1} of {ROUNDS}")
                            _save_round(self._measure_cold(peer, max_count + number * COLD_ADAPTERS, process), file)

    def load_rows(self) -> list[CapacityRow]:
        """Return the medians of all measurements in the folder, including those of earlier runs."""
        names = [peer.replace(" ", "-") for peer in PEERS]
        files = [file for name in names for file in sorted(self._out.glob(f"{name}-*.json"))]
        rounds = defaultdict(list)
        for one in (CapacityRound.model_validate_json(file.read_bytes()) for file in files):
            rounds[one.peer, one.kind, one.adapters].append(one)
        rows = [CapacityRow.from_rounds(group) for group in rounds.values()]
        return sorted(rows, key=lambda row: (row.peer != "looper", row.peer, LOAD_KINDS.index(row.kind), row.adapters))

    def calibrate_costs(self, cluster: Cluster, first_fresh: int) -> EngineCosts:
        """Return the time costs of Looper's engine, which the simulator needs.

        Args:
            cluster: Size of the engine.
            first_fresh: Number of the first adapter that was never requested.

        Returns:
            The costs.
        """
        file = self._out / "costs.json"
        if not file.exists():
            self._fixtures.ensure_adapters(first_fresh + FRESH_ADAPTERS)
            with run_s3_server(self._fixtures.buckets) as s3_url, self._peer_process("looper", s3_url) as process:
                endpoint = process.get_endpoint()
                self._notify("calibration")

                def send(requests: Sequence[WorkloadRequest]) -> list[RequestResult]:
                    return asyncio.run(self._send(endpoint, requests, 600))

                file.write_text(calibrate(send, cluster, first_fresh).model_dump_json(indent=1) + "\n")
        return EngineCosts.model_validate_json(file.read_bytes())

    def load_measured_cases(self, peer: str) -> list[tuple[LoadCase, LoadMetrics]]:
        """Return the full and steady loads of a peer that were measured.

        Args:
            peer: Name of the peer.

        Returns:
            Each round of each load, with its metrics.
        """
        rate_file = self._out / "rate.json"
        if not rate_file.exists():
            return []
        rate = json.loads(rate_file.read_text())["requests_per_s"]
        cases = [
            case.with_seed(number)
            for case in load_cases(peer, ADAPTER_COUNTS, rate, self._seconds)
            for number in range(ROUNDS)
        ]
        files = [(case, self._file(case.name, case.load.seed)) for case in cases]
        return [
            (case, CapacityRound.model_validate_json(file.read_bytes()).figures)
            for case, file in files
            if file.exists()
        ]

    def run_experiments(self, first_fresh: int) -> dict[str, dict[str, float]]:
        """Run the experiments on Looper.

        Args:
            first_fresh: Number of the first adapter that was never requested.

        Returns:
            The metrics of each experiment, by name.
        """
        metrics: dict[str, dict[str, float]] = {}
        with run_s3_server(self._fixtures.buckets) as s3_url, self._peer_process("looper", s3_url) as process:
            for name, experiment in EXPERIMENTS.items():
                file = self._out / f"{name.replace(' ', '-')}.json"
                if not file.exists():
                    self._fixtures.ensure_adapters(first_fresh + FRESH_ADAPTERS)
                    self._notify(name)
                    catalog = Catalog.open(load_settings(home=self._fixtures.folder / "home", base=self._fixtures.base))
                    rate = self._sustained_rate(process)
                    context = ExperimentContext(
                        process.get_endpoint(), self._fixtures, catalog, self._vocab_size, first_fresh, rate
                    )
                    file.write_text(json.dumps(asyncio.run(experiment(context))))
                    catalog.close()
                metrics[name] = json.loads(file.read_text())
        return metrics

    def _sustained_rate(self, process: PeerProcess) -> float:
        """Return the requests per second that the first measured peer answers for 8 adapters under a full load."""
        file = self._out / "rate.json"
        if not file.exists():
            self._notify("maximum request rate")
            rate, answered_per_s = FIRST_RATE_PER_S / 2, FIRST_RATE_PER_S
            while answered_per_s > SATURATED_SHARE * rate:
                rate *= 2
                load = LoadSpec(adapters=8, rate=rate, seconds=self._seconds)
                self._measure(process, generate_requests(load), self._seconds / 4)
                answered_per_s = self._measure(process, generate_requests(load), 10 * self._seconds).requests_per_s
            file.write_text(json.dumps({"requests_per_s": answered_per_s}))
        return float(json.loads(file.read_text())["requests_per_s"])

    def _prewarm(self, process: PeerProcess, adapters: int) -> None:
        """Request each adapter once, the most popular last, as in a cluster that has been running for some time."""
        end = time.monotonic() + MAX_PREWARM_S
        for first in reversed(range(0, min(adapters, MAX_PREWARMED_ADAPTERS), CLUSTER.seats)):
            if time.monotonic() < end:
                self._notify(f"{process.peer}, {first} adapters left to be requested once")
                numbers = range(first, min(adapters, first + CLUSTER.seats))
                self._measure(process, prewarm_requests(numbers), MAX_PREWARM_S)

    def _measure_load(self, case: LoadCase, process: PeerProcess) -> CapacityRound:
        self._measure(process, generate_requests(case.warm_up_load()), self._seconds)
        before = psutil.cpu_times()
        metrics = self._measure(process, generate_requests(case.load), case.timeout_s)
        return CapacityRound(
            peer=case.peer,
            kind=case.kind,
            adapters=case.load.adapters,
            rate=case.load.rate,
            figures=metrics,
            stolen=_steal_share(before),
        )

    def _measure_cold(self, peer: str, first: int, process: PeerProcess) -> CapacityRound:
        before = psutil.cpu_times()
        results = asyncio.run(self._send(process.get_endpoint(), cold_requests(first), COLD_TIMEOUT_S))
        return CapacityRound(
            peer=peer,
            kind="cold",
            adapters=COLD_ADAPTERS,
            rate=0,
            figures=compute_metrics(results),
            stolen=_steal_share(before),
            all_answered_s=round(max(result.finished_s or COLD_TIMEOUT_S for result in results), 3),
        )

    def _file(self, name: str, number: int) -> Path:
        return self._out / f"{name.replace(', ', '-').replace(' ', '-')}-{number}.json"

    def _measure(self, process: PeerProcess, requests: Sequence[WorkloadRequest], timeout_s: float) -> LoadMetrics:
        return compute_metrics(asyncio.run(self._send(process.get_endpoint(), requests, timeout_s)))

    async def _send(
        self, endpoint: PeerEndpoint, requests: Sequence[WorkloadRequest], timeout_s: float
    ) -> list[RequestResult]:
        create_preparer = ADAPTER_PREPARERS.get(endpoint.peer)
        return await send_load(
            endpoint.url,
            endpoint.headers,
            requests,
            endpoint.model_name,
            vocab_size=self._vocab_size,
            timeout_s=timeout_s,
            prepare_adapter=create_preparer(self._fixtures) if create_preparer else None,
        )

    @contextmanager
    def _peer_process(self, peer: str, s3_url: str) -> Iterator[PeerProcess]:
        process = PeerProcess(peer, self._fixtures, s3_url, self._notify)
        try:
            yield process
        finally:
            process.stop()


def _save_round(measured: CapacityRound, file: Path) -> None:
    file.write_text(measured.model_dump_json(indent=1) + "\n")


def _steal_share(before: Any) -> float:
    now = psutil.cpu_times()
    stolen_s = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)  # only Linux reports it
    return round(float(stolen_s / (sum(now) - sum(before))), 4)
