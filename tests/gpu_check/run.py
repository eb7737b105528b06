"""Runs each part of the check in a process of its own: what one does to the device, the others do not see."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import torch

from looper.benchmarks.machine import describe_machine
from tests.gpu_check.result import Notify, PartResult

PARTS = {"equality": 60, "strategies": 160, "large": 180, "engine": 200}
"""The parts, and the seconds that each may take: ten minutes together."""

MARK = "progress: "
"""Begins the lines of a part's process that are shown."""

GRACE_S = 15
"""Seconds that a part has to end by itself when its time is over."""


def run_part_here(name: str, folder: Path, notify: Notify) -> PartResult:
    """Run a part in this process, on the device that a trainer would choose.

    Args:
        name: One of ``PARTS``.
        folder: Empty folder for its files.
        notify: Tells the progress.
    """
    from looper.jobs.consolidation.model.device import pick_device
    from looper.jobs.consolidation.training.single_process_group import single_process_group
    from tests.gpu_check.engine import check_engine
    from tests.gpu_check.large_base import check_large_base
    from tests.gpu_check.training import check_equality, check_strategies

    if name == "engine":  # its own processes choose their device, and find the whole of its memory free
        return check_engine(folder, notify)
    checks = {"equality": check_equality, "strategies": check_strategies, "large": check_large_base}
    with single_process_group():
        return checks[name](folder, pick_device(), notify)


def part_command(name: str, folder: Path) -> list[str]:
    """Return the command that runs a part, and writes its result to ``result.json`` in ``folder``."""
    return [sys.executable, "-m", "tests.gpu_check", "--part", name, "--folder", str(folder)]


def run_all(
    folder: Path,
    notify: Notify,
    parts: Mapping[str, float] = PARTS,
    command: Callable[[str, Path], Sequence[str]] = part_command,
) -> dict[str, PartResult]:
    """Run parts one after the other. One that fails, dies or hangs is an error of its own.

    Args:
        folder: Where each part gets a folder.
        notify: Gets the progress, and one line for each part.
        parts: The seconds that each may take, by name.
        command: Makes the command of a part.
    """
    results = {}
    for name, timeout_s in parts.items():
        started = time.monotonic()
        (folder / name).mkdir(parents=True)
        result = _run_process(command(name, folder / name), folder / name, timeout_s, notify)
        result.seconds = round(time.monotonic() - started, 1)
        results[name] = result
        notify(f"{'✗' if result.errors else '✓'} {name:<10} {result.seconds:6.1f} s  {result.summary}")
    return results


def _run_process(command: Sequence[str], folder: Path, timeout_s: float, notify: Notify) -> PartResult:
    log, over = folder / "log", threading.Event()
    with log.open("w") as errors, Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=errors, text=True) as process:
        assert process.stdout is not None

        def end() -> None:
            over.set()
            process.terminate()  # it ends what it started

        timers = [threading.Timer(timeout_s, end), threading.Timer(timeout_s + GRACE_S, process.kill)]
        for timer in timers:
            timer.start()
        for line in process.stdout:
            if line.startswith(MARK):
                notify(line.removeprefix(MARK).rstrip())
        process.wait()
        for timer in timers:
            timer.cancel()
    file = folder / "result.json"
    result = PartResult(**json.loads(file.read_text())) if file.exists() else PartResult()
    if over.is_set():
        result.errors.append(f"took longer than {timeout_s:g} s")
    elif process.returncode or not file.exists():
        last = ([line for line in log.read_text().splitlines() if line.strip()] or ["it wrote nothing"])[-1]
        result.errors.append(f"ended with {process.returncode}: {last}")
    return result


def write_result(folder: Path, results: Mapping[str, PartResult]) -> Path | None:
    """Write the results to ``gpu-<name of the GPU>.json``.

    Args:
        folder: Where to write.
        results: The results by part.

    Returns:
        The file. None without a GPU, since nothing was found out about one.
    """
    if not torch.cuda.is_available():
        return None
    name = "-".join(torch.cuda.get_device_name().lower().split())
    content: dict[str, Any] = {
        "machine": describe_machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "passed": not any(each.errors for each in results.values()),
        "parts": {part: asdict(each) for part, each in results.items()},
    }
    file = folder / f"gpu-{name}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    return file
