"""The report of the demo: ``demo.json``, and a table and a chart of it.

``run`` creates the report at its end.
"""

from pathlib import Path

from pydantic import BaseModel
from rich.table import Table


class SkillResult(BaseModel):
    """Results of one skill."""

    model: str
    """Name of the skill, as ``tenant/instance``."""
    trajectories: int
    """Number of trajectories that were ingested."""
    examples: int
    """Number of training examples that synthesis made from them."""
    base_accuracy: float
    """Share of held-out tasks that the base model solved, from 0 to 1."""
    skill_accuracy: float
    """Share of held-out tasks that the skill solved, from 0 to 1."""
    digest: str
    """Digest of the skill's version."""
    held_out_tasks: int
    """Number of held-out tasks."""


class DemoReport(BaseModel):
    """The content of ``demo.json``."""

    skills: list[SkillResult]
    """One result per instance."""
    seconds: dict[str, float]
    """Duration of each stage of this run. A stage that reused an earlier result is short."""
    peak_memory_bytes: int
    """Peak memory of the demo's processes."""


def to_table(report: DemoReport) -> Table:
    """Format the skills for a terminal.

    Args:
        report: The report.

    Returns:
        A table with one row per skill.
    """
    table = Table(title="held-out tasks solved, asked over HTTP", box=None, header_style="bold", pad_edge=False)
    table.add_column("skill", no_wrap=True)
    for column in ("trajectories", "examples", "base", "skill"):
        table.add_column(column, justify="right")
    table.add_column("adapter", no_wrap=True)
    for skill in report.skills:
        table.add_row(
            skill.model,
            str(skill.trajectories),
            str(skill.examples),
            f"{skill.base_accuracy:.0%}",
            f"{skill.skill_accuracy:.0%}",
            skill.digest[:12],
        )
    return table


def summarize_resources(report: DemoReport) -> str:
    """Format the seconds of each stage and the peak memory.

    Args:
        report: The report.

    Returns:
        One line of text.
    """
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items())
    return f"seconds: {stages}; peak memory {report.peak_memory_bytes / 2**30:.1f} GiB"


def draw_chart(report: DemoReport, file: Path) -> None:
    """Draw two panels: the accuracy of the base model and each skill, and the seconds of each stage.

    Args:
        report: The report.
        file: The PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    skills = report.skills
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=[3, 2], layout="constrained")
    places = range(len(skills))
    series = (
        ("base model", "#b8bfc6", -0.2, [skill.base_accuracy for skill in skills]),
        ("its own skill", "#1f6f8b", 0.2, [skill.skill_accuracy for skill in skills]),
    )
    for label, color, shift, values in series:
        bars = left.bar(
            [place + shift for place in places], [100 * value for value in values], 0.38, label=label, color=color
        )
        left.bar_label(bars, fmt="%.0f", padding=2)
    names = [f"{s.model}\n{s.trajectories} trajectories\n{s.digest[:12]}" for s in skills]
    left.set_xticks(list(places), names, fontsize=8)
    left.set_ylim(0, 112)
    left.set_ylabel("held-out tasks solved, %")
    left.set_title("One base model, one adapter per agent")
    left.legend(loc="upper center", ncols=2, frameon=False, fontsize=9)
    stages = list(report.seconds.items())[::-1]
    bars = right.barh([name for name, _ in stages], [seconds for _, seconds in stages], color="#1f6f8b")
    right.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    right.set_xlabel("seconds")
    right.set_title(f"From trajectories to answers: {sum(report.seconds.values()):.0f} s")
    right.margins(x=0.15)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)
