"""``looper bench capacity``: the same loads on Looper and on what one would otherwise use, in one run."""

import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.experiments import EXPERIMENTS, FRESH, ExperimentContext
from looper.benchmarks.capacity.fixtures import CapacityFixtures
from looper.benchmarks.capacity.load.cases import (
    COLD,
    COLD_S,
    COUNTS,
    KINDS,
    KNOWN,
    KNOWN_S,
    ROUNDS,
    Case,
    cases_of,
    cold,
    known,
)
from looper.benchmarks.capacity.load.clients import Answered, drive
from looper.benchmarks.capacity.load.figures import Figures, sum_up
from looper.benchmarks.capacity.load.workload import Load, WorkloadRequest, draw
from looper.benchmarks.capacity.peers.peers import CLUSTER, PEERS, READY, Endpoint
from looper.benchmarks.capacity.peers.processes import PeerProcess, s3
from looper.benchmarks.capacity.simulation.calibrate import calibrate
from looper.benchmarks.capacity.simulation.predict import SimulationReport, simulation
from looper.benchmarks.capacity.simulation.simulator import Cluster, Costs
from looper.platform.catalog import Catalog
from looper.platform.settings import load_settings

GUESS_PER_S = 2.0
"""Requests in a second of the first load that looks for how many are answered, to the end of the last. It is doubled
until that is less than ``ANSWERED`` of them; many more than that would cost clients and gateway the cores that the
engine computes on."""
ANSWERED = 0.7


class CapacityRound(BaseModel):
    """What came of one load, once."""

    model_config = ConfigDict(frozen=True)

    peer: str
    kind: str
    adapters: int
    rate: float
    """Requests that came in a second."""
    figures: Figures
    stolen: float
    """Share of the cores' time that the host of a virtual machine took meanwhile."""
    all_answered_s: float | None = None
    """Of cold adapters that were asked for at once."""


class CapacityRow(CapacityRound):
    """The medians of a load's rounds."""

    rounds: int
    tokens_per_s: tuple[float, float]
    """The least and the most of any round."""
    first_p95_s: tuple[float, float] | None

    @classmethod
    def of(cls, rounds: Sequence[CapacityRound]) -> "CapacityRow":
        figures = [each.figures for each in rounds]
        tokens = [each.tokens_per_s for each in figures]
        firsts = [each.first_s.p95 for each in figures if each.first_s]
        waits = [each.all_answered_s for each in rounds if each.all_answered_s is not None]
        one = rounds[0]
        return cls(
            peer=one.peer,
            kind=one.kind,
            adapters=one.adapters,
            rate=one.rate,
            figures=Figures.median(figures),
            stolen=statistics.median(each.stolen for each in rounds),
            all_answered_s=statistics.median(waits) if waits else None,
            rounds=len(rounds),
            tokens_per_s=(min(tokens), max(tokens)),
            first_p95_s=(min(firsts), max(firsts)) if firsts else None,
        )


class CapacityReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[CapacityRow, ...]
    ratios: dict[str, float]
    promises: dict[str, dict[str, float]]
    """The experiments' figures, by name: seconds unless a figure's name says otherwise."""


class CapacityBenchmark:
    """A folder in which measurements are kept: what is there is not measured again."""

    def __init__(self, out: Path, world: CapacityFixtures, seconds: float, notify: Callable[[str], None]) -> None:
        self._out = out
        self._world = world
        self._seconds = seconds
        self._notify = notify
        self._vocabulary = json.loads((world.model_dir / "config.json").read_bytes())["vocab_size"]

    def run(self, peers: Sequence[str], counts: Sequence[int]) -> None:
        """Looper first, if it is asked: what the first answers is what all loads are made from."""
        most = max(counts)
        self._notify(f"{most + COLD * ROUNDS} adapters")
        self._world.prepare(most + COLD * ROUNDS)
        with s3(self._world.buckets) as store:
            for peer in sorted(peers, key=lambda peer: peer != "looper"):
                with self._started(peer, store) as endpoint:
                    cases = cases_of(peer, counts, self._answered_per_s(endpoint), self._seconds)
                    # A round of every load, then another: what the machine does meanwhile, it does to all.
                    missing = [
                        (case.round(number), file)
                        for number in range(ROUNDS)
                        for case in cases
                        if not (file := self._file(case.name, number)).exists()
                    ]
                    if missing:
                        self._make_known(endpoint, most)
                    for case, file in missing:
                        self._notify(f"{case.name}, {case.load.seed + 1} of {ROUNDS}")
                        _keep(self._measured(case, endpoint), file)
                    for number in range(ROUNDS):
                        file = self._file(f"{peer}, cold", number)
                        if not file.exists():
                            self._notify(f"{peer}, cold, {number + 1} of {ROUNDS}")
                            _keep(self._cold(peer, most + number * COLD, endpoint), file)

    def rows(self) -> list[CapacityRow]:
        """All that this folder holds, whichever run it is from."""
        names = [peer.replace(" ", "-") for peer in PEERS]
        files = [file for name in names for file in sorted(self._out.glob(f"{name}-*.json"))]
        rounds = defaultdict(list)
        for each in (CapacityRound.model_validate_json(file.read_bytes()) for file in files):
            rounds[each.peer, each.kind, each.adapters].append(each)
        found = [CapacityRow.of(each) for each in rounds.values()]
        return sorted(found, key=lambda row: (row.peer != "looper", row.peer, KINDS.index(row.kind), row.adapters))

    def costs(self, cluster: Cluster, fresh: int) -> Costs:
        """What Looper's engine takes, calibrated with adapters from ``fresh`` on."""
        file = self._out / "costs.json"
        if not file.exists():
            self._world.prepare(fresh + FRESH)
            with s3(self._world.buckets) as store, self._started("looper", store) as endpoint:
                started = endpoint.get()
                self._notify("calibration")

                def ask(asked: Sequence[WorkloadRequest]) -> list[Answered]:
                    return asyncio.run(self._answers(started, asked, 600))

                file.write_text(calibrate(ask, cluster, fresh).model_dump_json(indent=1) + "\n")
        return Costs.model_validate_json(file.read_bytes())

    def measured(self, peer: str) -> list[tuple[Case, Figures]]:
        """The loads of ``peer`` that this folder has."""
        rate = self._out / "rate.json"
        if not rate.exists():
            return []
        per_s = json.loads(rate.read_text())["requests_per_s"]
        cases = [
            case.round(number) for case in cases_of(peer, COUNTS, per_s, self._seconds) for number in range(ROUNDS)
        ]
        files = [(case, self._file(case.name, case.load.seed)) for case in cases]
        return [
            (case, CapacityRound.model_validate_json(file.read_bytes()).figures)
            for case, file in files
            if file.exists()
        ]

    def experiments(self, fresh: int) -> dict[str, dict[str, float]]:
        """Looper's promises, measured with adapters from ``fresh`` on."""
        found: dict[str, dict[str, float]] = {}
        with s3(self._world.buckets) as store, self._started("looper", store) as endpoint:
            for name, experiment in EXPERIMENTS.items():
                file = self._out / f"{name.replace(' ', '-')}.json"
                if not file.exists():
                    self._world.prepare(fresh + FRESH)
                    self._notify(name)
                    catalog = Catalog.open(load_settings(home=self._world.folder / "home", base=self._world.base))
                    rate = self._answered_per_s(endpoint)
                    scene = ExperimentContext(endpoint.get(), self._world, catalog, self._vocabulary, fresh, rate)
                    file.write_text(json.dumps(asyncio.run(experiment(scene))))
                    catalog.close()
                found[name] = json.loads(file.read_text())
        return found

    def _answered_per_s(self, endpoint: PeerProcess) -> float:
        """Requests for 8 adapters in a second, at full load, by whom is measured first in this folder."""
        file = self._out / "rate.json"
        if not file.exists():
            self._notify("how much Looper answers")
            rate, answered = GUESS_PER_S / 2, GUESS_PER_S
            while answered > ANSWERED * rate:
                rate *= 2
                load = Load(adapters=8, rate=rate, seconds=self._seconds)
                self._drive(endpoint, draw(load), self._seconds / 4)
                answered = self._drive(endpoint, draw(load), 10 * self._seconds).requests_per_s
            file.write_text(json.dumps({"requests_per_s": answered}))
        return float(json.loads(file.read_text())["requests_per_s"])

    def _make_known(self, endpoint: PeerProcess, adapters: int) -> None:
        """What is measured is a cluster that has been up for a while. The most popular are asked for last."""
        end = time.monotonic() + KNOWN_S
        for first in reversed(range(0, min(adapters, KNOWN), CLUSTER.seats)):
            if time.monotonic() < end:
                self._notify(f"{endpoint.peer}, {first} adapters left to be asked for once")
                numbers = range(first, min(adapters, first + CLUSTER.seats))
                self._drive(endpoint, known(numbers), KNOWN_S)

    def _measured(self, case: Case, endpoint: PeerProcess) -> CapacityRound:
        self._drive(endpoint, draw(case.warm_up()), self._seconds)
        before = psutil.cpu_times()
        figures = self._drive(endpoint, draw(case.load), case.within_s)
        return CapacityRound(
            peer=case.peer,
            kind=case.kind,
            adapters=case.load.adapters,
            rate=case.load.rate,
            figures=figures,
            stolen=_stolen(before),
        )

    def _cold(self, peer: str, first: int, endpoint: PeerProcess) -> CapacityRound:
        before = psutil.cpu_times()
        answers = asyncio.run(self._answers(endpoint.get(), cold(first), COLD_S))
        return CapacityRound(
            peer=peer,
            kind="cold",
            adapters=COLD,
            rate=0,
            figures=sum_up(answers),
            stolen=_stolen(before),
            all_answered_s=round(max(answer.done_s or COLD_S for answer in answers), 3),
        )

    def _file(self, name: str, number: int) -> Path:
        return self._out / f"{name.replace(', ', '-').replace(' ', '-')}-{number}.json"

    def _drive(self, endpoint: PeerProcess, asked: Sequence[WorkloadRequest], within_s: float) -> Figures:
        return sum_up(asyncio.run(self._answers(endpoint.get(), asked, within_s)))

    async def _answers(self, endpoint: Endpoint, asked: Sequence[WorkloadRequest], within_s: float) -> list[Answered]:
        ready = READY.get(endpoint.peer)
        return await drive(
            endpoint.url,
            endpoint.headers,
            asked,
            endpoint.model,
            vocabulary=self._vocabulary,
            within_s=within_s,
            ready=ready(self._world) if ready else None,
        )

    @contextmanager
    def _started(self, peer: str, store: str) -> Iterator[PeerProcess]:
        endpoint = PeerProcess(peer, self._world, store, self._notify)
        try:
            yield endpoint
        finally:
            endpoint.stop()


def _keep(measured: CapacityRound, file: Path) -> None:
    file.write_text(measured.model_dump_json(indent=1) + "\n")


def _stolen(before: Any) -> float:
    now = psutil.cpu_times()
    taken = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)  # Linux alone tells
    return round(float(taken / (sum(now) - sum(before))), 4)


def ratios(rows: Sequence[CapacityRow]) -> dict[str, float]:
    """What Looper is measured by: against itself with few adapters, and against the others with many."""
    by = {(row.peer, row.kind, row.adapters): row for row in rows}
    counts = sorted({row.adapters for row in rows if row.kind == "full"})
    few, many = (5 if 5 in counts else counts[0]), counts[-1]
    found: dict[str, float] = {}

    def put(name: str, above: float | None, below: float | None) -> None:
        if above and below:
            found[name] = round(above / below, 3)

    def tokens(peer: str, count: int) -> float | None:
        row = by.get((peer, "full", count))
        return row.figures.tokens_per_s if row else None

    def first(peer: str, count: int, what: str) -> float | None:
        row = by.get((peer, "steady", count))
        return float(getattr(row.figures.first_s, what)) if row and row.figures.first_s else None

    put(f"throughput at {many} over {few}", tokens("looper", many), tokens("looper", few))
    put(f"TTFT p95 at {many} over {few}", first("looper", many, "p95"), first("looper", few, "p95"))

    def cold_s(peer: str) -> float | None:
        row = by.get((peer, "cold", COLD))
        return row.all_answered_s if row else None

    for peer in dict.fromkeys(row.peer for row in rows if row.peer != "looper"):
        for count in counts:
            put(f"throughput over {peer}, {count}", tokens("looper", count), tokens(peer, count))
            put(f"TTFT p99 over {peer}, {count}", first("looper", count, "p99"), first(peer, count, "p99"))
        put(f"{COLD} cold over {peer}", cold_s("looper"), cold_s(peer))
    return found


def bench(
    out: Path,
    base: str,
    model_dir: Path,
    *,
    peers: Sequence[str],
    counts: Sequence[int],
    seconds: float,
    machine: str,
    notify: Callable[[str], None],
) -> CapacityReport:
    """Measure what ``out`` does not hold yet, write the report there and return it."""
    from looper.benchmarks.capacity.report import plot, to_markdown

    out.mkdir(parents=True, exist_ok=True)
    measured = CapacityBenchmark(out, CapacityFixtures(out / "world", model_dir, base), seconds, notify)
    measured.run(peers, counts)
    rows = measured.rows()
    report = CapacityReport(
        machine=machine,
        settings={"base": base, "seconds": seconds},
        rows=tuple(rows),
        ratios=ratios(rows),
        promises=measured.experiments(max(counts) + COLD * ROUNDS) if "looper" in peers else {},
    )
    (out / "capacity.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "capacity.md").write_text(to_markdown(report))
    plot(report, out / "capacity.png")
    return report


def simulate_capacity(
    out: Path,
    base: str,
    model_dir: Path,
    *,
    seconds: float,
    rates: Sequence[float],
    replicas: Sequence[int],
    notify: Callable[[str], None],
) -> SimulationReport:
    """Calibrate unless ``out`` holds the costs, compare with what it holds of measurements, and answer."""
    out.mkdir(parents=True, exist_ok=True)
    bench = CapacityBenchmark(out, CapacityFixtures(out / "world", model_dir, base), seconds, notify)
    costs = bench.costs(CLUSTER, max(COUNTS) + COLD * ROUNDS + FRESH)
    notify("simulation")
    found = simulation(bench.measured("looper"), CLUSTER, costs, rates, replicas)
    (out / "simulation.json").write_text(found.model_dump_json(indent=1) + "\n")
    return found
