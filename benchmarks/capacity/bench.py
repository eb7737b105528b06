"""``looper bench capacity``: the same loads on Looper and on what one would otherwise use, in one run."""

import asyncio
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.calibrate import calibrate
from looper.benchmarks.capacity.drive import Answered, drive
from looper.benchmarks.capacity.experiments import EXPERIMENTS, FRESH, Scene
from looper.benchmarks.capacity.figures import Figures, sum_up
from looper.benchmarks.capacity.peers import CLUSTER, PEERS, READY, Endpoint
from looper.benchmarks.capacity.plan import COLD, COLD_ROUNDS, COUNTS, FULL, KINDS, STEADY, Case, cases_of, cold
from looper.benchmarks.capacity.predict import Simulation, simulation
from looper.benchmarks.capacity.simulator import Cluster, Costs
from looper.benchmarks.capacity.started import Started, s3
from looper.benchmarks.capacity.workload import Asked, Load, draw
from looper.benchmarks.capacity.world import World
from looper.platform.catalog import Catalog
from looper.platform.settings import load_settings

STOLEN = 0.05
TRIES = 3
"""A load that a virtual machine's host took more than this share of the cores from is put again, at most so many times
in all; the run that lost the least counts."""

GUESS_PER_S = 2.0
"""Requests in a second of the first load that looks for how many are answered, to the end of the last. It is doubled
until that is less than ``ANSWERED`` of them; many more than that would cost clients and gateway the cores that the
engine computes on."""
ANSWERED = 0.7


class Row(BaseModel):
    """What came of one load."""

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
    """Of cold adapters that were asked for at once: the median of several rounds."""


class CapacityReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    ratios: dict[str, float]
    promises: dict[str, dict[str, float]]
    """The experiments' figures, by name: seconds unless a figure's name says otherwise."""


class Bench:
    """A folder in which measurements are kept: what is there is not measured again."""

    def __init__(self, out: Path, world: World, seconds: float, notify: Callable[[str], None]) -> None:
        self._out = out
        self._world = world
        self._seconds = seconds
        self._notify = notify
        self._vocabulary = json.loads((world.model_dir / "config.json").read_bytes())["vocab_size"]

    def run(self, peers: Sequence[str], counts: Sequence[int]) -> None:
        """Looper first, if it is asked: what the first answers is what all loads are made from."""
        most = max(counts)
        self._notify(f"{most + COLD * COLD_ROUNDS} adapters")
        self._world.prepare(most + COLD * COLD_ROUNDS)
        with s3(self._world.buckets) as store:
            for peer in sorted(peers, key=lambda peer: peer != "looper"):
                with self._started(peer, store) as endpoint:
                    per_s = self._answered_per_s(endpoint)
                    for case in cases_of(peer, counts, per_s, self._seconds):
                        self._measured(case, endpoint)
                    self._cold(peer, most, endpoint)

    def rows(self) -> list[Row]:
        """All that this folder holds, whichever run it is from."""
        names = [peer.replace(" ", "-") for peer in PEERS]
        files = [file for name in names for file in self._out.glob(f"{name}-*.json")]
        found = [Row.model_validate_json(file.read_bytes()) for file in files]
        return sorted(found, key=lambda row: (row.peer != "looper", row.peer, KINDS.index(row.kind), row.adapters))

    def costs(self, cluster: Cluster, fresh: int) -> Costs:
        """What Looper's engine takes, calibrated with adapters from ``fresh`` on."""
        file = self._out / "costs.json"
        if not file.exists():
            self._world.prepare(fresh + FRESH)
            with s3(self._world.buckets) as store, self._started("looper", store) as endpoint:
                started = endpoint.get()
                self._notify("calibration")

                def ask(asked: Sequence[Asked]) -> list[Answered]:
                    return asyncio.run(self._answers(started, asked, 600))

                file.write_text(calibrate(ask, cluster, fresh).model_dump_json(indent=1) + "\n")
        return Costs.model_validate_json(file.read_bytes())

    def measured(self, peer: str) -> list[tuple[Case, Figures]]:
        """The loads of ``peer`` that this folder has."""
        rate = self._out / "rate.json"
        if not rate.exists():
            return []
        per_s = json.loads(rate.read_text())["requests_per_s"]
        cases = cases_of(peer, COUNTS, per_s, self._seconds)
        files = [(case, self._file(case.name)) for case in cases]
        return [(case, Row.model_validate_json(file.read_bytes()).figures) for case, file in files if file.exists()]

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
                    scene = Scene(endpoint.get(), self._world, catalog, self._vocabulary, fresh, rate)
                    file.write_text(json.dumps(asyncio.run(experiment(scene))))
                    catalog.close()
                found[name] = json.loads(file.read_text())
        return found

    def _answered_per_s(self, endpoint: Started) -> float:
        """Requests for 8 adapters in a second, at full load, by whom is measured first in this folder."""
        file = self._out / "rate.json"
        if not file.exists():
            self._notify("how much Looper answers")
            rate, answered = GUESS_PER_S / 2, GUESS_PER_S
            while answered > ANSWERED * rate:
                rate *= 2
                load = Load(adapters=8, rate=rate, seconds=self._seconds)
                self._drive(endpoint, draw(load), self._seconds / 4)
                figures, _ = _undisturbed(partial(self._drive, endpoint, draw(load), 10 * self._seconds))
                answered = figures.requests_per_s
            file.write_text(json.dumps({"requests_per_s": answered}))
        return float(json.loads(file.read_text())["requests_per_s"])

    def _measured(self, case: Case, endpoint: Started) -> Row:
        def measure() -> Row:
            def drive() -> Figures:
                self._warm_up(endpoint, case)
                return self._drive(endpoint, draw(case.load), case.within_s)

            figures, stolen = _undisturbed(drive)
            return Row(
                peer=case.peer,
                kind=case.kind,
                adapters=case.load.adapters,
                rate=case.load.rate,
                figures=figures,
                stolen=stolen,
            )

        return self._kept(case.name, measure)

    def _warm_up(self, endpoint: Started, case: Case) -> None:
        """A little of the same kind of load, answered to its end: what came before it is over, too."""
        rate = case.load.rate if case.kind == "steady" else case.load.rate * STEADY / FULL
        load = case.load.model_copy(update={"rate": rate, "seconds": self._seconds / 4, "seed": 1})
        self._drive(endpoint, draw(load), 10 * self._seconds)

    def _cold(self, peer: str, first: int, endpoint: Started) -> Row:
        def measure() -> Row:
            rounds = []
            before = psutil.cpu_times()
            for number in range(COLD_ROUNDS):
                asked = cold(first + number * COLD)
                answers = asyncio.run(self._answers(endpoint.get(), asked, 600))
                rounds.append((max(answer.done_s or 600.0 for answer in answers), answers))
            answers = [answer for _, each in rounds for answer in each]
            took = statistics.median(seconds for seconds, _ in rounds)
            return Row(
                peer=peer,
                kind="cold",
                adapters=COLD,
                rate=0,
                figures=sum_up(answers),
                stolen=_stolen(before),
                all_answered_s=round(took, 3),
            )

        return self._kept(f"{peer}, cold", measure)

    def _kept(self, name: str, measure: Callable[[], Row]) -> Row:
        file = self._file(name)
        if not file.exists():
            self._notify(name)
            row = measure()
            file.write_text(row.model_dump_json(indent=1) + "\n")
        return Row.model_validate_json(file.read_bytes())

    def _file(self, name: str) -> Path:
        return self._out / f"{name.replace(', ', '-').replace(' ', '-')}.json"

    def _drive(self, endpoint: Started, asked: Sequence[Asked], within_s: float) -> Figures:
        return sum_up(asyncio.run(self._answers(endpoint.get(), asked, within_s)))

    async def _answers(self, endpoint: Endpoint, asked: Sequence[Asked], within_s: float) -> list[Answered]:
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
    def _started(self, peer: str, store: str) -> Iterator[Started]:
        endpoint = Started(peer, self._world, store, self._notify)
        try:
            yield endpoint
        finally:
            endpoint.stop()


def _undisturbed(measure: Callable[[], Figures]) -> tuple[Figures, float]:
    """What ``measure`` returns, and how much was stolen from it: see ``STOLEN``."""
    runs: list[tuple[float, Figures]] = []
    while not runs or (len(runs) < TRIES and runs[-1][0] > STOLEN):
        before = psutil.cpu_times()
        figures = measure()
        runs.append((_stolen(before), figures))
    stolen, figures = min(runs, key=lambda run: run[0])
    return figures, stolen


def _stolen(before: Any) -> float:
    now = psutil.cpu_times()
    taken = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)  # Linux alone tells
    return round(float(taken / (sum(now) - sum(before))), 4)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
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
    measured = Bench(out, World(out / "world", model_dir, base), seconds, notify)
    measured.run(peers, counts)
    rows = measured.rows()
    report = CapacityReport(
        machine=machine,
        settings={"base": base, "seconds": seconds},
        rows=tuple(rows),
        ratios=ratios(rows),
        promises=measured.experiments(max(counts) + COLD * COLD_ROUNDS) if "looper" in peers else {},
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
) -> Simulation:
    """Calibrate unless ``out`` holds the costs, compare with what it holds of measurements, and answer."""
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(out, World(out / "world", model_dir, base), seconds, notify)
    costs = bench.costs(CLUSTER, max(COUNTS) + COLD * COLD_ROUNDS + FRESH)
    notify("simulation")
    found = simulation(bench.measured("looper"), CLUSTER, costs, rates, replicas)
    (out / "simulation.json").write_text(found.model_dump_json(indent=1) + "\n")
    return found
