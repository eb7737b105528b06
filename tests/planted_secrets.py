"""Secrets that tests plant, and the search for them in all logs of a test run.

``tests/conftest.py`` searches at the end of the session, and fails it if a secret is in a log.
"""

import re
from collections.abc import Iterable
from pathlib import Path

API_KEY = re.compile(rb"looper_[0-9a-f]{16}_[0-9a-f]{64}")
"""A whole API key. No log has one, whoever issued it."""

PLANTED = {
    "prompt": "the amber heron keeps its umbrella in the library",
    "answer": "a thimble of cobalt rain waits behind the harbour",
    "model key": "sk-planted-0b7d5f3a9c",
    "unknown key": "looper_planted_5d1e8a",
}
"""Secrets by what they are. Tests send them; ``plant`` adds others."""

FOLDERS: set[Path] = set()
"""Folders with the logs of this session."""


def plant(kind: str, secret: str) -> None:
    """Search the logs of this session for one more secret of this kind."""
    PLANTED[f"{kind} {len(PLANTED)}"] = secret


def find_secrets(texts: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return which secrets are in which of the texts, each of which has a name."""
    found = []
    for name, text in texts:
        found += [f"{name} has the planted {kind}" for kind, secret in PLANTED.items() if secret.encode() in text]
        found += [f"{name} has an API key"] if API_KEY.search(text) else []
    return found


def read_logs(folders: Iterable[Path]) -> Iterable[tuple[str, bytes]]:
    """Yield path and content of each log file below the folders."""
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and (".log" in file.name or file.suffix in (".out", ".err")):
                yield str(file), file.read_bytes()
