"""An asyncio event loop whose time is simulated: it jumps to the next timer instead of waiting.

The admission queue, the pager, the prefetcher and the gateway's engine client are pure asyncio and read the loop's
clock. So they run in it as they are, thousands of them in one thread, and always in the same order.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with simulated time. It does no input or output."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return the simulated time, in seconds."""
        return self._now_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a function at once, so that no real thread decides the order.

        Args:
            executor: Not used.
            func: The function.
            args: Its arguments.

        Returns:
            A future that is done.
        """
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise RuntimeError("the simulation waits for something that never happens")
        self._now_s += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return super().get_map()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop with simulated time, beginning at 0.

    Args:
        main: The coroutine.

    Returns:
        Its result.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
