"""A host whose clock is wrong, for tests."""

import sys
import time
from datetime import datetime, timedelta, tzinfo

import pytest


def move_clock(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock of this process, as Looper's modules read it. The clocks of servers stay as they are."""

    class MovedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    for name, module in list(sys.modules.items()):
        if name.startswith("looper.") and getattr(module, "datetime", None) is datetime:
            patch.setattr(module, "datetime", MovedDatetime)
    real = time.time
    patch.setattr(time, "time", lambda: real() + seconds)
