"""What a replica makes of its download process, without the process."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from looper.platform.domain.errors import StoreUnavailable
from looper.platform.settings import load_settings
from looper.serve.cache import download_process


def download(monkeypatch: pytest.MonkeyPatch, answer: Awaitable[None]) -> None:
    """Download an adapter with a process that gives ``answer``."""
    actor = SimpleNamespace(download=SimpleNamespace(remote=lambda _: answer))
    actor_class = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: actor))
    context = SimpleNamespace(get_node_id=lambda: "0" * 56)
    fake_ray: Any = SimpleNamespace(remote=lambda _: actor_class, get_runtime_context=lambda: context)
    monkeypatch.setattr(download_process, "ray", fake_ray)
    settings = load_settings()
    start = download_process.start_downloader
    asyncio.run(_call(start(settings, settings.serve, Path(), "cpu", Path(), set())))


async def _call(function: Any) -> None:
    await function("d" * 64)


async def never() -> None:
    await asyncio.Event().wait()


async def die() -> None:
    raise ActorUnavailableError("it is restarting", None)


def test_a_download_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_process, "MAX_DOWNLOAD_S", 0.05)
    with pytest.raises(StoreUnavailable, match="was not loaded within"):
        download(monkeypatch, never())


def test_a_process_that_dies_can_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreUnavailable, match="the download process died: try again"):
        download(monkeypatch, die())
