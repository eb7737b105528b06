"""Tables keep ids whole, because they are copied into the next command."""

import io
import sys

import pytest

from looper.cli.output import table

ID = "3f0c9e5a7d1b4c2e8a6f0b9d7c5e3a10"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", ["20", "40", "80", "200"])
def test_an_id_is_neither_cut_nor_broken(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", terminal)
    reason = "the candidate is no better than the version that is served now"
    table(["consolidation", "instance", "reason"], [(ID, "acme/helpdesk", reason), (ID, "acme/x", None)], empty="")
    lines = terminal.getvalue().splitlines()
    assert sum(line.startswith(ID) for line in lines) == 2
    assert "…" not in terminal.getvalue()
    assert all(word in terminal.getvalue() for word in (*reason.split(), "acme/helpdesk"))
