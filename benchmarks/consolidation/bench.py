"""``looper bench consolidation``: the same consolidations in four ways, in one run, and how they compare."""

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

from looper.benchmarks.consolidation.variants import VARIANTS, trainers_for
from looper.benchmarks.consolidation.workload import HOLDOUT, RECIPE, prepare_work
from looper.demo.peak_memory import PeakMemory
from looper.jobs.synthesis.output.example_table import read_examples
from looper.platform.domain.errors import LooperError


class ConsolidationRow(BaseModel):
    """One way of doing them."""

    model_config = ConfigDict(frozen=True)

    variant: str
    makespan_s: float | None
    """From the first submission to the last adapter; None, as what follows from it, if it did not fit into memory."""
    median_s: float | None
    """Until half of the adapters are there."""
    tokens_per_s: float | None
    """Training tokens, padding not counted, over the makespan."""
    peak_memory_bytes: int
    published: int | None = None
    """How many the gate let through; None where there is no gate."""


class ConsolidationReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[ConsolidationRow, ...]
    ratios: dict[str, float]


def bench(
    n: int, tasks: int, out: Path, base: str, model_dir: Path, machine: str, notify: Callable[[str], None]
) -> ConsolidationReport:
    """Run what ``out`` does not hold yet, write the report there and return it."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in VARIANTS:
        notify(name)
        rows.append(_row(name, n, tasks, out, model_dir))
    report = ConsolidationReport(
        machine=machine,
        settings={
            "n": n,
            "base": base,
            "tasks": tasks,
            "holdout": HOLDOUT,
            "trainers": trainers_for(n),
            "recipe": RECIPE.model_dump(mode="json"),
        },
        rows=tuple(rows),
        ratios=_ratios({row.variant: row for row in rows}),
    )
    (out / "consolidation.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "consolidation.md").write_text(to_markdown(report))
    return report


def _row(name: str, n: int, tasks: int, out: Path, model_dir: Path) -> ConsolidationRow:
    file = out / f"{name.replace(' ', '-').replace(',', '')}-{n}x{tasks}.json"
    if file.exists():
        return ConsolidationRow.model_validate_json(file.read_bytes())
    with tempfile.TemporaryDirectory() as folder, PeakMemory(every_s=2.0) as memory:
        tokens = _training_tokens(n, tasks, Path(folder), model_dir)
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
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise LooperError(f"variant {name!r} ended with {ran.returncode}: {ran.stderr.strip().splitlines()[-1]}")
    measured = json.loads(ran.stdout.strip().splitlines()[-1])
    took = measured["makespan_s"]
    row = ConsolidationRow(
        variant=name,
        makespan_s=took and round(took, 2),
        median_s=took and round(statistics.median(measured["done_s"]), 2),
        tokens_per_s=took and round(tokens / took, 1),
        peak_memory_bytes=memory.bytes,
        published=measured["published"],
    )
    file.write_text(row.model_dump_json(indent=1) + "\n")
    return row


def _training_tokens(n: int, tasks: int, folder: Path, model_dir: Path) -> int:
    from transformers import AutoTokenizer

    from looper.jobs.consolidation.data.encode import encode

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    works = prepare_work(n, folder, tasks)
    examples = [e for work in works for e in read_examples((work.folder / "train.parquet").read_bytes())]
    return RECIPE.epochs * sum(len(w) for e in examples for w in encode(e, tokenizer, RECIPE.max_seq_length))


def _ratios(rows: dict[str, ConsolidationRow]) -> dict[str, float]:
    ratios = {}
    for label, ours in (("", rows["looper"]), ("trainer at work: ", rows["looper, trainer at work"])):
        for name in ("one TorchTrainer each", "in turn, plain PEFT", "side by side"):
            theirs = rows[name].makespan_s
            if theirs is not None and ours.makespan_s is not None:
                ratios[f"{label}faster than {name}"] = round(theirs / ours.makespan_s, 2)
    less = rows["side by side"].peak_memory_bytes - rows["looper"].peak_memory_bytes
    return ratios | {"gigabytes less than side by side": round(less / 1e9, 2)}


_HEADS = ("variant", "makespan", "half done", "tokens/s", "peak memory", "published")


def to_table(report: ConsolidationReport) -> Table:
    table = Table(*_HEADS, box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: ConsolidationReport) -> str:
    asked = f"{report.settings['n']} instances, {report.settings['tasks']} tasks each, base {report.settings['base']}"
    lines = [f"{report.machine}; {asked}", "", f"| {' | '.join(_HEADS)} |", f"|{' --- |' * len(_HEADS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def _cells(row: ConsolidationRow) -> tuple[str, ...]:
    memory = f"{row.peak_memory_bytes / 1e9:.1f} GB"
    published = "no gate" if row.published is None else str(row.published)
    if row.makespan_s is None:
        return row.variant, "did not fit", "", "", f"more than {memory}", ""
    took = f"{row.makespan_s:.0f} s", f"{row.median_s:.0f} s", f"{row.tokens_per_s:.0f}"
    return row.variant, *took, memory, published
