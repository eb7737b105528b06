"""What becomes of every trajectory file below a folder, as a Markdown table.

python -m looper.benchmarks.ingestion PATH
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.report import FileReport


def rows(folder: Path) -> Iterator[str]:
    """The table, line by line: a row per file that holds trajectories, then a list of the files that hold none."""
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
    for parent, files in groupby(sorted(others, key=_folder), key=_folder):
        yield f"- `{parent}/`: {', '.join(f'`{file.name}`' for file in files)}"


def _folder(path: Path) -> Path:
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
    print("\n".join(rows(Path(sys.argv[1]))))
