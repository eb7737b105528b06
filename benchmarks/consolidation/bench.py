"""``looper bench consolidation``: run the same consolidations with each variant, and compare the variants.

``looper.cli.bench`` calls ``bench``, which runs ``variants`` in processes of their own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.consolidation.variants import VARIANTS, trainer_count
from looper.benchmarks.consolidation.workload import HOLDOUT_SHARE, RECIPE, prepare_workloads
from looper.demo.peak_memory import PeakMemory
from looper.jobs.consolidation.data.window_table import read_windows
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.domain.errors import LooperError


class ConsolidationRow(BaseModel):
    """Results of one variant. The field names are those of ``consolidation.json``."""

    model_config = ConfigDict(frozen=True)

    variant: str
    """Name of the variant."""
    makespan_s: float | None
    """Seconds from the first submission to the last adapter.

    None if the variant did not fit into memory, as are the values that follow from it.
    """
    median_s: float | None
    """Seconds from the first submission until half of the adapters were ready."""
    tokens_per_s: float | None
    """Training tokens per second of the makespan, without padding."""
    peak_memory_bytes: int
    """Peak memory of the variant's processes."""
    published: int | None = None
    """How many candidates the gate published; None for a variant without a gate."""


class ConsolidationReport(BaseModel):
    """The content of ``consolidation.json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """The machine that the numbers were measured on."""
    settings: dict[str, Any]
    """The settings of the run."""
    rows: tuple[ConsolidationRow, ...]
    """One row per variant."""
    ratios: dict[str, float]
    """How Looper compares with the other variants."""


def bench(
    n: int, tasks: int, out: Path, base: str, model_dir: Path, machine: str, notify: Callable[[str], None]
) -> ConsolidationReport:
    """Run the variants whose results are missing, and write the report.

    Args:
        n: Number of instances.
        tasks: Number of tasks per instance.
        out: Folder for the result of each variant and for the report.
        base: Name of the base model, for the report.
        model_dir: Folder of the base model.
        machine: Description of the machine, for the report.
        notify: Called with the name of each variant before it runs.

    Returns:
        The report.

    Raises:
        LooperError: A variant failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in VARIANTS:
        notify(name)
        rows.append(_load_or_measure(name, n, tasks, out, model_dir))
    report = ConsolidationReport(
        machine=machine,
        settings={
            "n": n,
            "base": base,
            "tasks": tasks,
            "holdout": HOLDOUT_SHARE,
            "trainers": trainer_count(n),
            "recipe": RECIPE.model_dump(mode="json"),
        },
        rows=tuple(rows),
        ratios=_ratios({row.variant: row for row in rows}),
    )
    (out / "consolidation.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "consolidation.md").write_text(to_markdown(report))
    return report


def _load_or_measure(name: str, n: int, tasks: int, out: Path, model_dir: Path) -> ConsolidationRow:
    file = out / f"{name.replace(' ', '-').replace(',', '')}-{n}x{tasks}.json"
    if file.exists():
        return ConsolidationRow.model_validate_json(file.read_bytes())
    with tempfile.TemporaryDirectory() as folder, PeakMemory(interval_s=2.0) as memory:
        tokens = _count_training_tokens(n, tasks, Path(folder), model_dir)
        command = [
            sys.executable,
            "-m",
            "looper.benchmarks.consolidation.variants",
            name,
            str(n),
            str(tasks),
            folder,
            str(model_dir),
        ]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise LooperError(
            f"variant {name!r} exited with code {process.returncode}: {process.stderr.strip().splitlines()[-1]}"
        )
    measured = json.loads(process.stdout.strip().splitlines()[-1])
    makespan_s = measured["makespan_s"]
    row = ConsolidationRow(
        variant=name,
        makespan_s=makespan_s and round(makespan_s, 2),
        median_s=makespan_s and round(statistics.median(measured["done_s"]), 2),
        tokens_per_s=makespan_s and round(tokens / makespan_s, 1),
        peak_memory_bytes=memory.peak_bytes,
        published=measured["published"],
    )
    file.write_text(row.model_dump_json(indent=1) + "\n")
    return row


def _count_training_tokens(n: int, tasks: int, folder: Path, model_dir: Path) -> int:
    revision = read_base_revision(model_dir)
    workloads = prepare_workloads(n, folder, model_dir, tasks)
    files = [(workload.folder / "train.windows.parquet").read_bytes() for workload in workloads]
    windows = [window for content in files for window in read_windows(content, revision).windows]
    return RECIPE.epochs * sum(len(window) for window in windows)


def _ratios(rows: dict[str, ConsolidationRow]) -> dict[str, float]:
    ratios = {}
    for prefix, ours in (("", rows["looper"]), ("trainer at work: ", rows["looper, trainer at work"])):
        for name in ("one TorchTrainer each", "in turn, plain PEFT", "side by side"):
            theirs = rows[name].makespan_s
            if theirs is not None and ours.makespan_s is not None:
                ratios[f"{prefix}faster than {name}"] = round(theirs / ours.makespan_s, 2)
    saved_bytes = rows["side by side"].peak_memory_bytes - rows["looper"].peak_memory_bytes
    return ratios | {"gigabytes less than side by side": round(saved_bytes / 1e9, 2)}


_COLUMNS = ("variant", "makespan", "half done", "tokens/s", "peak memory", "published")


def to_table(report: ConsolidationReport) -> Table:
    """Format a report for a terminal.

    Args:
        report: The report.

    Returns:
        A table with one row per variant.
    """
    table = Table(*_COLUMNS, box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: ConsolidationReport) -> str:
    """Format a report as Markdown.

    Args:
        report: The report.

    Returns:
        A table with one row per variant, and the ratios.
    """
    workload = (
        f"{report.settings['n']} instances, {report.settings['tasks']} tasks each, base {report.settings['base']}"
    )
    lines = [f"{report.machine}; {workload}", "", f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def _cells(row: ConsolidationRow) -> tuple[str, ...]:
    memory = f"{row.peak_memory_bytes / 1e9:.1f} GB"
    published = "no gate" if row.published is None else str(row.published)
    if row.makespan_s is None:
        return row.variant, "did not fit", "", "", f"more than {memory}", ""
    makespan_s = f"{row.makespan_s:.0f} s", f"{row.median_s:.0f} s", f"{row.tokens_per_s:.0f}"
    return row.variant, *makespan_s, memory, published
