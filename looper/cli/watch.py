"""Following consolidations live, for ``looper consolidate --wait`` and ``looper jobs watch``."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TextIO

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation

    Show = Callable[[list[Consolidation]], None]

LOOK_S = 0.5
"""Between two looks at the catalog."""


def watch(
    catalog: "Catalog", ids: Sequence[str], out: TextIO, *, json: bool = False, stop: threading.Event | None = None
) -> "list[Consolidation]":
    """Show the consolidations on ``out`` until all have ended, or until ``stop``; return them as they are then.

    On a terminal that is a live table, elsewhere a line per change; with ``json``, the line is an object. Raises
    NotFound for an unknown id.
    """
    try:
        with _display(out, json) as show:
            return _follow(catalog, ids, show, stop or threading.Event())
    except KeyboardInterrupt:
        sys.stderr.write("stopped watching; the consolidations go on\n")
        raise


def exit_if_failed(jobs: "Sequence[Consolidation]") -> None:
    """Exit status 1 if one failed. A rejection is no failure: the gate has done its work."""
    if any(job.state == "failed" for job in jobs):
        raise typer.Exit(1)


def why(job: "Consolidation") -> str | None:
    """The reason of a verdict, in one sentence, whichever way it went."""
    return job.reason or (job.verdict.reason if job.verdict else None)


def _follow(catalog: "Catalog", ids: Sequence[str], show: "Show", stop: threading.Event) -> "list[Consolidation]":
    jobs = {job.id: job for job in catalog.consolidations_by_id(ids)}
    stopped = False
    while True:
        show(list(jobs.values()))
        going = [id for id, job in jobs.items() if not job.state.final]
        if stopped or not going:
            return list(jobs.values())
        stopped = stop.wait(LOOK_S)
        jobs |= {job.id: job for job in catalog.consolidations_by_id(going)}


@contextmanager
def _display(out: TextIO, json: bool) -> "Iterator[Show]":
    if json or not out.isatty():
        line_of = _json_line if json else _line
        shown: dict[str, str] = {}

        def print_changes(jobs: "list[Consolidation]") -> None:
            for job in jobs:
                line = line_of(job)
                if shown.get(job.id) != line:
                    shown[job.id] = line
                    out.write(f"{line}\n")
            out.flush()

        yield print_changes
        return

    from rich.console import Console
    from rich.live import Live

    console = Console(file=out)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda jobs: live.update(_table(jobs, console.size.height, datetime.now(UTC)), refresh=True)


def _json_line(job: "Consolidation") -> str:
    from looper.platform.api.models import ConsolidationInfo

    return ConsolidationInfo.of(job).model_dump_json()


def _line(job: "Consolidation") -> str:
    parts = [_state(job)]
    if job.progress and not job.state.final:
        parts.append(f"step {_steps(job)}")
        parts += [f"loss {_loss(job)}"] if _loss(job) else []
    parts += [reason] if (reason := why(job)) else []
    return f"{job.instance} {job.id[:8]}: {', '.join(parts)}"


def _table(jobs: "list[Consolidation]", height: int, now: datetime) -> "Table":
    """As many of ``jobs`` as a terminal of ``height`` lines holds: those that are worked on before all others."""
    from rich.table import Table
    from rich.text import Text

    counts = Counter(_state(job) for job in jobs)
    caption = ", ".join(f"{count} {state}" for state, count in counts.items())
    rows = max(height - 4, 1)  # the rest are the head, the caption and the cursor's line
    if len(jobs) > rows:
        jobs = sorted(jobs, key=lambda job: (job.state.final, job.owner is None))[:rows]
    columns = ("instance", "state", "step", "loss", "waited", "reason")
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    for job in jobs:
        waited = (job.started_at or job.ended_at or now) - job.created_at
        whole_seconds = max(timedelta(0), timedelta(seconds=int(waited.total_seconds())))
        cells = (job.instance, _state(job), _steps(job), _loss(job), whole_seconds, why(job))
        grid.add_row(*(Text("-" if cell is None else str(cell), overflow="ellipsis", no_wrap=True) for cell in cells))
    return grid


def _state(job: "Consolidation") -> str:
    """Its state, and whether it waits in it: handed on or given back, and nobody has claimed it yet."""
    return f"{job.state} (waiting)" if job.started_at and job.owner is None and not job.state.final else str(job.state)


def _steps(job: "Consolidation") -> str | None:
    return f"{job.progress.step}/{job.progress.steps}" if job.progress else None


def _loss(job: "Consolidation") -> str | None:
    return f"{job.progress.loss:.4f}" if job.progress and job.progress.loss is not None else None
