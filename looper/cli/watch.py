"""Following consolidations live, for ``looper consolidate --wait`` and ``looper jobs watch``."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from looper.cli.output import progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation


def watch(
    catalog: "Catalog",
    ids: Sequence[str],
    *,
    live: "Progress | None" = None,
    stop: threading.Event | None = None,
) -> "list[Consolidation]":
    """Show the consolidations on ``live`` (or a display of its own) until all have ended, or until ``stop``."""
    with ExitStack() as stack:
        display = live or stack.enter_context(progress())
        lines: dict[str, TaskID] = {}
        while True:
            jobs = [catalog.consolidation(id) for id in ids]
            for job in jobs:
                if job.id not in lines:
                    lines[job.id] = display.add_task(str(job.instance), total=None, note="")
                step, steps, note = _progress_of(job)
                display.update(lines[job.id], completed=step, total=steps, note=note)
                if job.state.final:
                    display.stop_task(lines[job.id])
            if all(job.state.final for job in jobs) or (stop is not None and stop.wait(0.5)):
                return jobs
            if stop is None:
                time.sleep(0.5)


def _progress_of(job: "Consolidation") -> tuple[int, int | None, str]:
    if job.state.final:
        return 1, 1, f"{job.state}: {job.reason}" if job.reason else str(job.state)
    if job.progress is None or job.state != "training":
        return 0, None, str(job.state)
    loss = f", loss {job.progress.loss:.3f}" if job.progress.loss is not None else ""
    return job.progress.step, job.progress.steps, f"training, step {job.progress.step} of {job.progress.steps}{loss}"
