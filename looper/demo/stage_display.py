"""The demo's stages as a person sees them: one line each, live while it runs, with its seconds once it is done."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from looper.demo.plan import Stage

HEARTBEAT_S = 15.0
"""Where nobody looks at a terminal (a log, CI), the running stage says so this often."""


class Stages:
    """While entered, shows the running stage and keeps the seconds of those that ended, in order."""

    def __init__(self, console: Console) -> None:
        self.seconds: dict[str, float] = {}
        self.running: Stage | None = None
        self._console = console
        self._note = ""
        self._began = 0.0
        self._stop = threading.Event()
        self._shower = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._shower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()
        self._stop.set()
        self._shower.join()
        if kind is not None and self.running:
            self._console.print(Text(f"stopped in the stage {self.running!r}"))

    def begin(self, name: Stage, note: str = "") -> None:
        """End the running stage and begin ``name``, its key in ``seconds``. Beginning the running one is nothing."""
        if name == self.running:
            return
        self._end()
        self.running, self._note, self._began = name, note, time.monotonic()

    def note(self, text: str) -> None:
        """Say what the running stage is doing, or what came of it."""
        self._note = text

    def _end(self) -> None:
        if self.running is None:
            return
        name, line = self.running, self._line()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - self._began, 2)
        self.running = None
        self._console.print(Text.assemble(("✓ ", "green"), (f"{name:<12}", "bold"), line), soft_wrap=True)

    def _line(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s  {self._note}"

    def _show(self) -> None:
        if not self._console.is_terminal:
            while not self._stop.wait(HEARTBEAT_S):
                if self.running:
                    self._console.print(Text(f"  {self.running:<12}{self._line()}"), soft_wrap=True)
            return
        spinner = Spinner("dots")
        with Live(spinner, console=self._console, refresh_per_second=8, transient=True):
            while not self._stop.wait(0.12):
                spinner.update(text=Text.assemble((f"{self.running or '':<12}", "bold"), self._line()))
