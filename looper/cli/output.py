"""What commands print: JSON for programs or tables for people on standard output, one line for a mistake.

Used by every command.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from rich.progress import Progress

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def emit_json(value: Any) -> None:
    """Print JSON.

    Args:
        value: A pydantic model, or a list or dict of them.
    """
    from pydantic_core import to_json

    typer.echo(to_json(value, indent=1).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table.

    Args:
        columns: Headings.
        rows: Cells of each row; None is shown as a dash.
        empty: Sentence to print if there are no rows.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        typer.echo(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        # Ids are copied from here into the next command, so they are neither cut nor broken.
        grid.add_column(name, overflow="fold", no_wrap=not any(" " in row[i] for row in cells))
    for row in cells:
        grid.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    needed = Measurement.get(console, console.options.update(max_width=10_000), grid).minimum
    Console(width=max(console.width, needed)).print(grid)  # the terminal itself breaks lines that are too long


def format_time(at: "datetime | None") -> str | None:
    """Return the time ``at`` as tables show it, in UTC to the second; None stays None."""
    return f"{at:%F %T}" if at else None


def progress(*, transient: bool = False) -> "Progress":
    """Return a live progress display on standard error, so that standard output has results only.

    Args:
        transient: Whether it disappears at its end, and shows nothing where there is no terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=transient,
        disable=transient and not sys.stderr.isatty(),
    )


def fail(message: str, status: int = 1) -> NoReturn:
    """Exit with one line on standard error.

    Args:
        message: What is wrong. Line breaks become spaces.
        status: Exit status.
    """
    one_line = " ".join(message.split())
    sys.stderr.write(f"error: {one_line}\n")
    sys.exit(status)
