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

from looper.benchmarks.consolidation.plan import HOLDOUT, RECIPE, prepare_work
from looper.benchmarks.consolidation.variants import VARIANTS, trainers_for
from looper.benchmarks.memory import PeakMemory
from looper.jobs.synthesis.table import read_examples
from looper.platform.domain.errors import LooperError


class Row(BaseModel):
    """One way of doing them."""

    model_config = ConfigDict(frozen=True)

    variant: str
    makespan_s: float
    """From the first submission to the last adapter."""
    median_s: float
    """Until half of the adapters are there."""
    tokens_per_s: float
    """Training tokens, padding not counted, over the makespan."""
    peak_memory_bytes: int


class ConsolidationReport(BaseModel):
    """What every ``looper bench`` prints."""

    model_config = ConfigDict(frozen=True)

    machine: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]
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


def _row(name: str, n: int, tasks: int, out: Path, model_dir: Path) -> Row:
    file = out / f"{name.replace(' ', '-').replace(',', '')}-{n}x{tasks}.json"
    if file.exists():
        return Row.model_validate_json(file.read_bytes())
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
    row = Row(
        variant=name,
        makespan_s=round(measured["makespan_s"], 2),
        median_s=round(statistics.median(measured["done_s"]), 2),
        tokens_per_s=round(tokens / measured["makespan_s"], 1),
        peak_memory_bytes=memory.bytes,
    )
    file.write_text(row.model_dump_json(indent=1) + "\n")
    return row


def _training_tokens(n: int, tasks: int, folder: Path, model_dir: Path) -> int:
    from transformers import AutoTokenizer

    from looper.jobs.consolidation.encode import encode

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    works = prepare_work(n, folder, tasks)
    examples = [e for work in works for e in read_examples((work.folder / "train.parquet").read_bytes())]
    return RECIPE.epochs * sum(len(w) for e in examples for w in encode(e, tokenizer, RECIPE.max_context))


def _ratios(rows: dict[str, Row]) -> dict[str, float]:
    ours, warm = rows["looper"], rows["looper, trainer at work"]
    return {
        "trainer at work: faster than one TorchTrainer each": round(
            rows["one TorchTrainer each"].makespan_s / warm.makespan_s, 2
        ),
        "trainer at work: faster than in turn with plain PEFT": round(
            rows["in turn, plain PEFT"].makespan_s / warm.makespan_s, 2
        ),
        "faster than one TorchTrainer each": round(rows["one TorchTrainer each"].makespan_s / ours.makespan_s, 2),
        "faster than in turn with plain PEFT": round(rows["in turn, plain PEFT"].makespan_s / ours.makespan_s, 2),
        "faster than side by side": round(rows["side by side"].makespan_s / ours.makespan_s, 2),
        "gigabytes less than side by side": round(
            (rows["side by side"].peak_memory_bytes - ours.peak_memory_bytes) / 1e9, 2
        ),
    }


def to_table(report: ConsolidationReport) -> Table:
    table = Table("variant", "makespan", "half done", "tokens/s", "peak memory", box=None)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: ConsolidationReport) -> str:
    lines = ["| variant | makespan | half done | tokens/s | peak memory |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    lines += ["", *(f"- {name}: {value}" for name, value in report.ratios.items())]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    memory = f"{row.peak_memory_bytes / 1e9:.1f} GB"
    return row.variant, f"{row.makespan_s:.0f} s", f"{row.median_s:.0f} s", f"{row.tokens_per_s:.0f}", memory
