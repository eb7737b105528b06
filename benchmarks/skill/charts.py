"""Draw the picture of the skill benchmark: how often an arm is right, against what its prompts cost."""

from collections.abc import Sequence
from pathlib import Path

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.summary import ArmSummary

_COLORS = {
    Adapter.BASE: "#8d969e",
    Adapter.NEUTRAL: "#c98b2b",
    Adapter.SKILL: "#1f6f8b",
    Adapter.BARE_TAUGHT: "#b5485d",
    Adapter.WRONG_TENANT: "#6b4f8a",
}
_LABELS = {
    Adapter.BASE: "base model",
    Adapter.NEUTRAL: "adapter that knows other worlds only",
    Adapter.SKILL: "its own skill",
    Adapter.BARE_TAUGHT: "a skill that was taught without notes",
    Adapter.WRONG_TENANT: "another tenant's skill",
}


def draw_chart(rows: Sequence[ArmSummary], file: Path) -> None:
    """Draw one point for each arm.

    Args:
        rows: The arms.
        file: The PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    height = max(5.0, 0.16 * len(rows))
    figure, axes = plt.subplots(figsize=(11, height), layout="constrained")
    for adapter in Adapter:
        found = [row for row in rows if row.adapter == adapter]
        if not found:
            continue
        strict = [100 * row.strict for row in found]
        errors = [
            [100 * (row.strict - row.strict_low) for row in found],
            [100 * (row.strict_high - row.strict) for row in found],
        ]
        tokens = [max(1.0, row.prompt_tokens) for row in found]
        color = _COLORS[adapter]
        axes.errorbar(tokens, strict, errors, fmt="o", color=color, label=_LABELS[adapter], elinewidth=0.7, alpha=0.85)
    for row, (x, y) in zip(rows, _place_labels(rows), strict=True):
        point = (max(1.0, row.prompt_tokens), 100 * row.strict)
        axes.annotate(
            row.knowledge or "nothing in the prompt",
            point,
            (x, y),
            fontsize=7,
            color=_COLORS[Adapter(row.adapter)],
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#c9ced3", "linewidth": 0.5},
        )
    axes.set_xscale("log")
    axes.set_xlabel("prompt tokens a task (fewer are cheaper)")
    axes.set_ylabel("held-out tasks with each turn right, %")
    axes.set_ylim(-8, 112)
    axes.set_title("One base model, one set of tasks: what the weights have learned, and what the prompt says")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _place_labels(rows: Sequence[ArmSummary]) -> list[tuple[float, float]]:
    """Return a place for each label, to the right of its point, moved up or down until no two labels overlap."""
    taken: list[tuple[float, float]] = []
    for row in rows:
        x, y = 1.08 * max(1.0, row.prompt_tokens), 100 * row.strict
        offsets = (sign * 3.2 * step for step in range(40) for sign in (1, -1))
        free = (y + offset for offset in offsets if -7 <= y + offset <= 111)
        place = next(
            (each for each in free if all(abs(each - b) >= 3.1 or not 0.45 < x / a < 2.2 for a, b in taken)), y
        )
        taken.append((x, place))
    return taken
