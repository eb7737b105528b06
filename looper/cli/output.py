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
    from rich.table import Table
    from rich.text import Text

    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    if grid.row_count:
        Console(width=None if sys.stdout.isatty() else 200).print(grid)
    else:
        typer.echo(empty)


def format_time(at: "datetime | None") -> str | None:
    """Return the time ``at`` as tables show it, in UTC to the second; None stays None."""
    return f"{at:%F %T}" if at else None


def progress() -> "Progress":
    """Return a live progress display on standard error, so that standard output has results only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
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
