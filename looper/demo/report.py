"""The report of the demo: ``demo.json``, and a table and a chart of it.

``run`` creates the report at its end.
"""

from pathlib import Path

from pydantic import BaseModel
from rich.table import Table

_WITH = {"none": "", "notes": "\n+ notes", "episodes": "\n+ episodes"}
"""How what stands in the prompt is called."""


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
    base_strict: dict[str, float]
    """Share of held-out tasks that the base model solved with each turn as the workplace asks for it, from 0 to 1, by
    what it had in its prompt: ``none``, ``notes`` or ``episodes``."""
    skill_strict: dict[str, float]
    """The same of the skill."""
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
    table = Table(
        title="held-out tasks solved, each step as the workplace wants it",
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold",
        pad_edge=False,
    )
    table.add_column("skill", no_wrap=True)
    for column in (f"{model}{_WITH[with_]}" for model in ("base", "skill") for with_ in _WITH):
        table.add_column(column, justify="right")
    table.add_column("adapter", no_wrap=True)
    for skill in report.skills:
        table.add_row(
            skill.model,
            *(f"{strict[with_]:.0%}" for strict in (skill.base_strict, skill.skill_strict) for with_ in _WITH),
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
    """Draw two panels: what the base model and each skill do right, by their prompts, and the seconds of each stage.

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
    colors = ("#d9dde1", "#b8bfc6", "#8d969e", "#6fb3c8", "#1f6f8b", "#124352")
    arms = [(model, with_) for model in ("base model", "its own skill") for with_ in _WITH]
    for number, (color, (model, with_)) in enumerate(zip(colors, arms, strict=True)):
        stricts = [skill.base_strict if model == "base model" else skill.skill_strict for skill in skills]
        bars = left.bar(
            [place + 0.14 * (number - 2.5) for place in places],
            [100 * strict[with_] for strict in stricts],
            0.13,
            label=f"{model}{_WITH[with_]}".replace("\n", " "),
            color=color,
        )
        left.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    names = [f"{s.model}\n{s.trajectories} trajectories\n{s.digest[:12]}" for s in skills]
    left.set_xticks(list(places), names, fontsize=8)
    left.set_ylim(0, 130)
    left.set_ylabel("held-out tasks with each step right, %")
    left.set_title("One base model, one adapter per agent, on top of what the agent knows")
    left.legend(loc="upper center", ncols=2, frameon=False, fontsize=8)
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
