"""Show the demo's stages in a terminal: one line per stage, live while it runs, with its seconds at the end.

``run`` reports each stage here.
"""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from looper.demo.plan import DemoStage

HEARTBEAT_S = 15.0
"""Seconds between two lines of the running stage where the output is not a terminal, such as a log or CI."""


class StageDisplay:
    """Context manager that shows the running stage and measures the stages.

    Attributes:
        seconds: Duration of each stage that has ended, in order.
        running: The running stage, if any.
    """

    def __init__(self, console: Console) -> None:
        """Prepare the display.

        Args:
            console: Where the stages are shown.
        """
        self.seconds: dict[str, float] = {}
        self.running: DemoStage | None = None
        self._console = console
        self._note = ""
        self._began = 0.0
        self._stop = threading.Event()
        self._display_thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._display_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()
        self._stop.set()
        self._display_thread.join()
        if kind is not None and self.running:
            self._console.print(Text(f"stopped in stage {self.running!r}"))

    def begin(self, name: DemoStage, note: str = "") -> None:
        """End the running stage and begin another one; do nothing if it is running already.

        Args:
            name: The stage, which is also its key in ``seconds``.
            note: What the stage does.
        """
        if name == self.running:
            return
        self._end()
        self.running, self._note, self._began = name, note, time.monotonic()

    def note(self, text: str) -> None:
        """Replace the note of the running stage.

        Args:
            text: What the stage is doing, or its result.
        """
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
