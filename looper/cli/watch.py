"""Follows consolidations live, for ``looper consolidate --wait`` and ``looper jobs watch``."""

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

    from looper.cli.control_plane.interface import ConsolidationReader
    from looper.platform.api.models import ConsolidationInfo

    Show = Callable[[list[ConsolidationInfo]], None]

POLL_INTERVAL_S = 0.5
"""Pause between two looks at the consolidations, in seconds."""


def watch(
    reader: "ConsolidationReader",
    ids: Sequence[str],
    out: TextIO,
    *,
    json: bool = False,
    stop: threading.Event | None = None,
) -> "list[ConsolidationInfo]":
    """Show consolidations until all of them have ended.

    Args:
        reader: Reads the consolidations.
        ids: Ids of the consolidations.
        out: Where to print. A terminal gets a live table, anything else a line per change.
        json: Print each change as a JSON object instead.
        stop: Ends the watching early when it is set.

    Returns:
        The consolidations as they are at the end.

    Raises:
        NotFound: A consolidation does not exist.
    """
    try:
        with _display(out, json) as show:
            return _follow(reader, ids, show, stop or threading.Event())
    except KeyboardInterrupt:
        sys.stderr.write("stopped watching; the consolidations continue\n")
        raise


def exit_if_failed(jobs: "Sequence[ConsolidationInfo]") -> None:
    """Exit with status 1 if a consolidation failed. A rejected one has not failed: the gate has done its work.

    Args:
        jobs: Ended consolidations.

    Raises:
        Exit: At least one has failed.
    """
    if any(job.state == "failed" for job in jobs):
        raise typer.Exit(1)


def reason_of(job: "ConsolidationInfo") -> str | None:
    """Return in one sentence why a consolidation ended as it did, None while it has not.

    Args:
        job: The consolidation.
    """
    return job.reason or (job.verdict.reason if job.verdict else None)


def state_of(job: "ConsolidationInfo") -> str:
    """Return the state of a consolidation, and in brackets what the state alone does not say.

    ``waiting``: it was handed over or returned, and no worker has claimed it yet. ``undecided``: its version is
    published, but for want of evidence only in the channel canary.

    Args:
        job: The consolidation.
    """
    if job.state == "published" and job.verdict and job.verdict.undecided:
        return f"{job.state} (undecided)"
    return f"{job.state} (waiting)" if job.started_at and job.waiting else str(job.state)


def _follow(
    reader: "ConsolidationReader", ids: Sequence[str], show: "Show", stop: threading.Event
) -> "list[ConsolidationInfo]":
    jobs = {job.id: job for job in reader.get_consolidations(ids)}
    is_stopped = False
    while True:
        show(list(jobs.values()))
        unfinished = [id for id, job in jobs.items() if not job.state.is_final]
        if is_stopped or not unfinished:
            return list(jobs.values())
        is_stopped = stop.wait(POLL_INTERVAL_S)
        jobs |= {job.id: job for job in reader.get_consolidations(unfinished)}


@contextmanager
def _display(out: TextIO, json: bool) -> "Iterator[Show]":
    if json or not out.isatty():
        format_job = _json_line if json else _text_line
        shown: dict[str, str] = {}

        def print_changes(jobs: "list[ConsolidationInfo]") -> None:
            for job in jobs:
                line = format_job(job)
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


def _json_line(job: "ConsolidationInfo") -> str:
    return job.model_dump_json()


def _text_line(job: "ConsolidationInfo") -> str:
    parts = [state_of(job)]
    if job.progress and not job.state.is_final:
        parts.append(f"step {_steps(job)}")
        parts += [f"loss {_loss(job)}"] if _loss(job) else []
    parts += [reason] if (reason := reason_of(job)) else []
    return f"{job.instance} {job.id[:8]}: {', '.join(parts)}"


def _table(jobs: "list[ConsolidationInfo]", height: int, now: datetime) -> "Table":
    """Return a table of as many jobs as fit on a terminal of ``height`` lines; those that are worked on come first."""
    from rich.table import Table
    from rich.text import Text

    counts = Counter(state_of(job) for job in jobs)
    caption = ", ".join(f"{count} {state}" for state, count in counts.items())
    rows = max(height - 4, 1)  # the other lines are the heading, the caption and the cursor's line
    if len(jobs) > rows:
        jobs = sorted(jobs, key=lambda job: (job.state.is_final, job.waiting))[:rows]
    columns = ("instance", "state", "step", "loss", "waited", "reason")
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    for job in jobs:
        waited = (job.started_at or job.ended_at or now) - job.created_at
        whole_seconds = max(timedelta(0), timedelta(seconds=int(waited.total_seconds())))
        cells = (job.instance, state_of(job), _steps(job), _loss(job), whole_seconds, reason_of(job))
        grid.add_row(*(Text("-" if cell is None else str(cell), overflow="ellipsis", no_wrap=True) for cell in cells))
    return grid


def _steps(job: "ConsolidationInfo") -> str | None:
    return f"{job.progress.step}/{job.progress.steps}" if job.progress else None


def _loss(job: "ConsolidationInfo") -> str | None:
    return f"{job.progress.loss:.4f}" if job.progress and job.progress.loss is not None else None
