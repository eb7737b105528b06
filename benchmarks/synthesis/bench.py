"""``looper bench synthesis``: the same stages over the same trajectories in several ways, in one run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.synthesis.corpus import BATCH, Corpus
from looper.benchmarks.synthesis.variants import HOLDOUT, VARIANTS, SynthesisMeasurement, store_in
from looper.platform.domain.errors import LooperError

SMALL = Corpus(1, 20)
ONE, TWO, LOOPER = "looper, 1 worker", "looper, 2 workers", "looper"


class SynthesisRow(BaseModel):
    """One way of working on one corpus."""

    model_config = ConfigDict(frozen=True)

    variant: str
    instances: int
    trajectories: int
    measured: SynthesisMeasurement

    @property
    def corpus(self) -> Corpus:
        return Corpus(self.instances, self.trajectories)

    @property
    def per_s(self) -> float:
        return self.trajectories / self.measured.seconds


class SynthesisBenchmarkReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[SynthesisRow, ...]
    ratios: dict[str, float]


def plan(trajectories: int) -> Iterator[tuple[str, Corpus]]:
    """Every way with a hundredth of ``trajectories`` and with all of them; Looper besides with a tenth, with twenty,
    and with ten for each of many instances."""
    for count in (trajectories // 100, trajectories):
        for variant in VARIANTS:
            if variant != LOOPER:
                yield variant, of_four(count)
    yield TWO, of_four(trajectories // 10)
    yield TWO, SMALL
    yield LOOPER, SMALL
    yield TWO, many(trajectories)


def of_four(trajectories: int) -> Corpus:
    """Of each work place of the gym the same number."""
    return Corpus(4, trajectories // 4 * 4)


def many(trajectories: int) -> Corpus:
    return Corpus(trajectories // 50, trajectories // 50 * 10)


def bench(trajectories: int, out: Path, machine: str, notify: Callable[[str], None]) -> SynthesisBenchmarkReport:
    """Run what ``out`` does not hold yet, write the report there and return it.

    Raises LooperError if two ways make different examples of the same trajectories.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for variant, corpus in plan(trajectories):
        notify(f"{variant}: {corpus.instances} x {corpus.trajectories // corpus.instances}")
        rows.append(row(variant, corpus, out))
    _compare(rows)
    report = SynthesisBenchmarkReport(
        machine=machine,
        settings={"trajectories": trajectories, "batch": BATCH, "holdout": HOLDOUT},
        rows=tuple(rows),
        ratios=_ratios(rows, trajectories),
    )
    (out / "synthesis.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "synthesis.md").write_text(to_markdown(report))
    return report


def row(variant: str, corpus: Corpus, out: Path) -> SynthesisRow:
    """Measured, if ``out`` does not hold it."""
    file = out / f"{variant.replace(' ', '-').replace(',', '')}-{corpus.name}.json"
    if file.exists():
        return SynthesisRow.model_validate_json(file.read_bytes())
    store = out / "store"
    corpus.write(store_in(store))
    command = [sys.executable, "-m", "looper.benchmarks.synthesis.variants", variant]
    ran = subprocess.run(
        [*command, str(corpus.instances), str(corpus.trajectories), str(store)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise LooperError(f"variant {variant!r} ended with {ran.returncode}: {ran.stderr.strip().splitlines()[-1]}")
    measured = SynthesisMeasurement.model_validate_json(ran.stdout.strip().splitlines()[-1])
    found = SynthesisRow(
        variant=variant, instances=corpus.instances, trajectories=corpus.trajectories, measured=measured
    )
    file.write_text(found.model_dump_json(indent=1) + "\n")
    return found


def _compare(rows: list[SynthesisRow]) -> None:
    digests: dict[Corpus, str] = {}
    for each in rows:
        known = digests.setdefault(each.corpus, each.measured.digest)
        if known != each.measured.digest:
            raise LooperError(
                f"{each.variant!r} makes other examples of {each.trajectories} trajectories than those before it; "
                "one of them is wrong, so that their times say nothing"
            )


def _ratios(rows: list[SynthesisRow], trajectories: int) -> dict[str, float]:
    found = {(each.variant, each.corpus): each.measured for each in rows}
    ratios = {}
    for corpus in (of_four(trajectories // 100), of_four(trajectories)):
        for name in ("plain loop", "datasets.map", ONE):
            times = found[name, corpus].seconds / found[TWO, corpus].seconds
            ratios[f"2 workers faster than {name} at {corpus.trajectories}"] = times
    memory = [found[TWO, of_four(count)].peak_memory_bytes for count in (trajectories // 10, trajectories)]
    ratios[f"peak memory at {trajectories} over {trajectories // 10}"] = memory[1] / memory[0]
    ratios["seconds of a small job"] = found[LOOPER, SMALL].seconds
    ratios["seconds of a small job over Ray Data"] = found[TWO, SMALL].seconds
    ratios[f"seconds of {many(trajectories).instances} instances in one job"] = found[TWO, many(trajectories)].seconds
    return {name: round(value, 2) for name, value in ratios.items()}


_HEADS = ("variant", "instances", "trajectories", "seconds", "trajectories/s", "peak memory")


def to_table(report: SynthesisBenchmarkReport) -> Table:
    table = Table(*_HEADS, box=None)
    for each in report.rows:
        table.add_row(*_cells(each))
    return table


def to_markdown(report: SynthesisBenchmarkReport) -> str:
    lines = [report.machine, "", f"| {' | '.join(_HEADS)} |", f"|{' --- |' * len(_HEADS)}"]
    lines += [f"| {' | '.join(_cells(each))} |" for each in report.rows]
    lines += ["", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def _cells(each: SynthesisRow) -> tuple[str, ...]:
    head = each.variant, str(each.instances), str(each.trajectories)
    memory = f"{each.measured.peak_memory_bytes / 1e9:.2f} GB"
    return *head, f"{each.measured.seconds:.1f}", f"{each.per_s:.0f}", memory
