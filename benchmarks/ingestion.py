"""Report how ingestion reads every trajectory file below a folder, as a Markdown table.

``python -m looper.benchmarks.ingestion PATH`` prints the table that is in docs/ingestion.md; a test compares them.
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.report import FileReport


def markdown_lines(folder: Path) -> Iterator[str]:
    """Generate the report.

    Args:
        folder: Folder with trajectory files.

    Yields:
        Lines of Markdown: a table with one row per file that has trajectories, then a list of the other files.
    """
    reports = [report for report, _ in read_path(folder)]
    yield "| file | format | trajectories | kept | rejected | reasons |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for report in reports:
        if report.reasons != {"not_a_trajectory_file": 1}:
            yield _row(str(Path(report.path).relative_to(folder)), [report])
    yield _row("**all**", reports)
    yield ""
    yield "Not trajectory files, and reported as such (`not_a_trajectory_file`):"
    yield ""
    others = [Path(r.path).relative_to(folder) for r in reports if r.reasons == {"not_a_trajectory_file": 1}]
    for parent, files in groupby(sorted(others, key=_parent), key=_parent):
        yield f"- `{parent}/`: {', '.join(f'`{file.name}`' for file in files)}"


def _parent(path: Path) -> Path:
    return path.parent


def _row(name: str, reports: list[FileReport]) -> str:
    formats = {report.format for report in reports if report.format}
    reasons: dict[str, int] = {}
    for report in reports:
        for reason, count in report.reasons.items():
            if reason != "not_a_trajectory_file":
                reasons[reason] = reasons.get(reason, 0) + count
    cells = [
        name,
        formats.pop() if len(formats) == 1 else "",
        str(sum(report.trajectories for report in reports)),
        str(sum(report.kept for report in reports)),
        str(sum(report.rejected for report in reports)),
        ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items())),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m looper.benchmarks.ingestion PATH")
    print("\n".join(markdown_lines(Path(sys.argv[1]))))
