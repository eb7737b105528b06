"""Run ``looper bench synthesis``: the same stages over the same trajectories in several ways, and write the report.

``looper/cli/bench.py`` calls ``bench``. Each result is measured by ``variants.py`` in a process of its own.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.synthesis.corpus import MAX_BATCH_TRAJECTORIES, Corpus
from looper.benchmarks.synthesis.variants import (
    HOLDOUT_SHARE,
    LOOPER,
    ONE_WORKER,
    TWO_WORKERS,
    VARIANTS,
    SynthesisMeasurement,
    open_store,
)
from looper.platform.domain.errors import LooperError

SMALL_CORPUS = Corpus(1, 20)
"""A small job."""


class SynthesisRow(BaseModel):
    """Result of one variant with one corpus."""

    model_config = ConfigDict(frozen=True)

    variant: str
    """Name of the variant."""
    instances: int
    """Number of instances in the corpus."""
    trajectories: int
    """Number of trajectories in the corpus."""
    measured: SynthesisMeasurement
    """What was measured."""

    @property
    def corpus(self) -> Corpus:
        """The corpus."""
        return Corpus(self.instances, self.trajectories)

    @property
    def trajectories_per_s(self) -> float:
        """Trajectories per second."""
        return self.trajectories / self.measured.seconds


class SynthesisBenchmarkReport(BaseModel):
    """Report of ``looper bench synthesis``, with the fields of every ``looper bench`` report."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, Any]
    """Settings of the benchmark."""
    rows: tuple[SynthesisRow, ...]
    """One row per variant and corpus."""
    ratios: dict[str, float]
    """Comparisons between rows, by description."""


def plan_measurements(trajectories: int) -> Iterator[tuple[str, Corpus]]:
    """Plan what is measured.

    Every variant gets a hundredth of ``trajectories`` and all of them. Looper also gets a tenth, a small job, and ten
    trajectories for each of many instances.

    Args:
        trajectories: Number of trajectories of the largest corpus.

    Yields:
        Variants with their corpus, in order.
    """
    for count in (trajectories // 100, trajectories):
        for variant in VARIANTS:
            if variant != LOOPER:
                yield variant, four_instance_corpus(count)
    yield TWO_WORKERS, four_instance_corpus(trajectories // 10)
    yield TWO_WORKERS, SMALL_CORPUS
    yield LOOPER, SMALL_CORPUS
    yield TWO_WORKERS, many_instance_corpus(trajectories)


def four_instance_corpus(trajectories: int) -> Corpus:
    """Return a corpus of ``trajectories`` with the same number from each workplace of the gym."""
    return Corpus(4, trajectories // 4 * 4)


def many_instance_corpus(trajectories: int) -> Corpus:
    """Return a corpus with a fifth of ``trajectories``, ten for each of many instances."""
    return Corpus(trajectories // 50, trajectories // 50 * 10)


def bench(trajectories: int, out: Path, machine: str, notify: Callable[[str], None]) -> SynthesisBenchmarkReport:
    """Measure the missing results, and write ``synthesis.{json,md}``.

    Args:
        trajectories: Number of trajectories of the largest corpus.
        out: Folder of the trajectories, the results and the report.
        machine: Description of the machine, for the report.
        notify: Called with a line of text before each measurement.

    Returns:
        The report.

    Raises:
        LooperError: A measurement failed, or two variants make different examples of the same trajectories.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for variant, corpus in plan_measurements(trajectories):
        notify(f"{variant}: {corpus.instances} x {corpus.trajectories // corpus.instances}")
        rows.append(load_or_measure(variant, corpus, out))
    _check_same_examples(rows)
    report = SynthesisBenchmarkReport(
        machine=machine,
        settings={"trajectories": trajectories, "batch": MAX_BATCH_TRAJECTORIES, "holdout": HOLDOUT_SHARE},
        rows=tuple(rows),
        ratios=_ratios(rows, trajectories),
    )
    (out / "synthesis.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "synthesis.md").write_text(to_markdown(report))
    return report


def load_or_measure(variant: str, corpus: Corpus, out: Path) -> SynthesisRow:
    """Load a result, or measure it in a new process if it does not exist.

    Args:
        variant: Name of the variant.
        corpus: The corpus.
        out: Folder of the results. The store is in it too.

    Returns:
        The result.

    Raises:
        LooperError: The process failed.
    """
    file = out / f"{variant.replace(' ', '-').replace(',', '')}-{corpus.name}.json"
    if file.exists():
        return SynthesisRow.model_validate_json(file.read_bytes())
    store = out / "store"
    corpus.write(open_store(store))
    command = [sys.executable, "-m", "looper.benchmarks.synthesis.variants", variant]
    process = subprocess.run(
        [*command, str(corpus.instances), str(corpus.trajectories), str(store)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        last_line = process.stderr.strip().rpartition("\n")[2]
        raise LooperError(f"Variant {variant!r} ended with exit code {process.returncode}: {last_line}")
    measured = SynthesisMeasurement.model_validate_json(process.stdout.strip().splitlines()[-1])
    row = SynthesisRow(variant=variant, instances=corpus.instances, trajectories=corpus.trajectories, measured=measured)
    file.write_text(row.model_dump_json(indent=1) + "\n")
    return row


def _check_same_examples(rows: list[SynthesisRow]) -> None:
    digests: dict[Corpus, str] = {}
    for row in rows:
        if digests.setdefault(row.corpus, row.measured.digest) != row.measured.digest:
            raise LooperError(
                f"Variant {row.variant!r} makes other examples of {row.trajectories} trajectories than the variants "
                "before it. One of them is wrong, so their times cannot be compared."
            )


def _ratios(rows: list[SynthesisRow], trajectories: int) -> dict[str, float]:
    measured = {(row.variant, row.corpus): row.measured for row in rows}
    ratios = {}
    for corpus in (four_instance_corpus(trajectories // 100), four_instance_corpus(trajectories)):
        for name in ("plain loop", "datasets.map", ONE_WORKER):
            speedup = measured[name, corpus].seconds / measured[TWO_WORKERS, corpus].seconds
            ratios[f"2 workers faster than {name} at {corpus.trajectories}"] = speedup
    tenth, largest = (
        measured[TWO_WORKERS, four_instance_corpus(count)].peak_memory_bytes
        for count in (trajectories // 10, trajectories)
    )
    ratios[f"peak memory at {trajectories} over {trajectories // 10}"] = largest / tenth
    ratios["seconds of a small job"] = measured[LOOPER, SMALL_CORPUS].seconds
    ratios["seconds of a small job over Ray Data"] = measured[TWO_WORKERS, SMALL_CORPUS].seconds
    many = many_instance_corpus(trajectories)
    ratios[f"seconds of {many.instances} instances in one job"] = measured[TWO_WORKERS, many].seconds
    return {name: round(value, 2) for name, value in ratios.items()}


_HEADINGS = ("variant", "instances", "trajectories", "seconds", "trajectories/s", "peak memory")


def to_table(report: SynthesisBenchmarkReport) -> Table:
    """Return a table for the terminal.

    Args:
        report: The report.

    Returns:
        One row per variant and corpus.
    """
    table = Table(*_HEADINGS, box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: SynthesisBenchmarkReport) -> str:
    """Return the report for the documentation.

    Args:
        report: The report.

    Returns:
        Markdown with the machine, the table and the ratios.
    """
    lines = [report.machine, "", f"| {' | '.join(_HEADINGS)} |", f"|{' --- |' * len(_HEADINGS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def _cells(row: SynthesisRow) -> tuple[str, ...]:
    seconds, memory = f"{row.measured.seconds:.1f}", f"{row.measured.peak_memory_bytes / 1e9:.2f} GB"
    corpus = str(row.instances), str(row.trajectories)
    return row.variant, *corpus, seconds, f"{row.trajectories_per_s:.0f}", memory
