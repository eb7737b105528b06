"""Report the results of the skill benchmark: as JSON, as a table for the terminal, and as Markdown.

``bench.py`` builds the report from the rows of ``summary.py``.
"""

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from looper.benchmarks.skill.summary import ArmSummary


class SkillBenchReport(BaseModel):
    """Report of ``looper bench skill --json``."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """Description of the machine."""
    settings: dict[str, str | int | float | bool | list[str] | list[int]]
    """Settings that the results depend on."""
    rows: list[ArmSummary]
    """One row for each arm, the highest strict success first, whoever that is."""
    ratios: dict[str, float]
    """Strict success from 0 to 1 of the base model alone, of the best arm without a skill, and of the skill alone, with
    notes, with retrieval, with a newer note and with wrong demonstrations; and the skill's prompt tokens divided by
    those of the best arm without a skill."""
    skipped: dict[str, str]
    """Why arms or knowledge layers were left out, by their names."""


def to_table(report: SkillBenchReport) -> Table:
    """Return a table for the terminal.

    Args:
        report: The report.

    Returns:
        One row for each arm.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for row in report.rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(report: SkillBenchReport) -> str:
    """Return the report for the documentation.

    Args:
        report: The report.

    Returns:
        Markdown with the machine, the settings, the table, the figures and what was left out.
    """
    settings = ", ".join(f"{name} {_write_setting(value)}" for name, value in report.settings.items())
    head = [f"| {' | '.join(_HEADINGS)} |", f"| --- |{' ---: |' * (len(_HEADINGS) - 1)}"]
    body = [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    worlds = sorted({world for row in report.rows for world in row.strict_by_world})
    by_world = [f"| arm | {' | '.join(worlds)} |", f"| --- |{' ---: |' * len(worlds)}"]
    for row in report.rows:
        cells = (f"{row.strict_by_world[world]:.0%}" if world in row.strict_by_world else "" for world in worlds)
        by_world.append(f"| {row.arm} | {' | '.join(cells)} |")
    ratios = [f"- {name}: {value:.3g}" for name, value in report.ratios.items()]
    skipped = [f"- {name}: {reason}" for name, reason in report.skipped.items()]
    parts = [f"{report.machine}; {settings}", "", *head, *body, ""]
    parts += ["Strict success by world:", "", *by_world, ""] if len(worlds) > 1 else []
    parts += [*ratios, ""]
    parts += ["Left out:", "", *skipped, ""] if skipped else []
    return "\n".join(parts)


_HEADINGS = (
    "arm",
    "strict, % (95 %)",
    "over the skill (95 %)",
    "solved, %",
    "turns",
    "prompt tokens a task",
    "of them uncached",
    "s a task",
    "learning tokens",
    "tasks",
)


def _cells(row: ArmSummary) -> list[str]:
    over = ""
    if row.over_skill is not None and row.over_skill_low is not None and row.over_skill_high is not None:
        over = f"{100 * row.over_skill:+.0f} ({100 * row.over_skill_low:+.0f} to {100 * row.over_skill_high:+.0f})"
    mark = " (bound)" if row.is_bound else " (on purpose)" if row.is_robustness else ""
    refused = f" ({row.refused} too long)" if row.refused else ""
    unserved = f" ({row.without_skill} without it: refused by its gate)" if row.without_skill else ""
    return [
        f"{row.arm}{mark}{refused}{unserved}",
        f"{100 * row.strict:.0f} ({100 * row.strict_low:.0f} to {100 * row.strict_high:.0f})",
        over,
        f"{100 * row.success:.0f}",
        f"{row.turns:.1f}",
        f"{row.prompt_tokens:,.0f}",
        "" if row.uncached_prompt_tokens is None else f"{row.uncached_prompt_tokens:,.0f}",
        f"{row.seconds:.1f}",
        "" if row.learning_tokens is None else f"{row.learning_tokens:,.0f}",
        str(row.tasks),
    ]


def _write_setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
