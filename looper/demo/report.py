"""What the demo leaves behind: ``demo.json``, a table and a picture of it."""

from pathlib import Path

from pydantic import BaseModel
from rich.table import Table


class SkillResult(BaseModel):
    """One skill; accuracies are shares, from 0 to 1, of held-out tasks solved."""

    model: str
    trajectories: int
    examples: int
    base_accuracy: float
    skill_accuracy: float
    digest: str
    held_out_tasks: int


class DemoReport(BaseModel):
    """``demo.json``: ``seconds`` are per stage, of this run; a stage whose result was reused is short."""

    skills: list[SkillResult]
    seconds: dict[str, float]
    peak_memory_bytes: int


def to_table(report: DemoReport) -> Table:
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


def in_words(report: DemoReport) -> str:
    """Seconds per stage and memory, in one line."""
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items())
    return f"seconds: {stages}; peak memory {report.peak_memory_bytes / 2**30:.1f} GiB"


def draw(report: DemoReport, file: Path) -> None:
    """Two panels: accuracy of base and skill side by side, and where the time went."""
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
    for label, colour, shift, values in series:
        bars = left.bar(
            [place + shift for place in places], [100 * value for value in values], 0.38, label=label, color=colour
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
