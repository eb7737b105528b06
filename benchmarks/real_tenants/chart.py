"""Draw the shares of right actions by arm with matplotlib. ``bench.py`` calls it after the report is built."""

from pathlib import Path

from looper.benchmarks.real_tenants.arms import TenantArm
from looper.benchmarks.real_tenants.report import MEASURES, TenantsReport

_COLORS = {
    TenantArm.BARE: "#bdbdbd",
    TenantArm.POLICY: "#9ecae1",
    TenantArm.RETRIEVAL: "#4292c6",
    TenantArm.SKILL: "#e6550d",
    TenantArm.BOTH: "#fdae6b",
}


def draw_arms(report: TenantsReport, file: Path) -> None:
    """Draw one panel for each base model, with a group of bars for each measure and a bar for each arm.

    Args:
        report: The report, with at least one base model.
        file: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    count = len(report.bases)
    figure, grid = plt.subplots(count, 1, figsize=(9, 3.6 * count), squeeze=False, layout="constrained")
    width = 0.8 / len(TenantArm)
    for axes, summary in zip(grid.flat, report.bases, strict=True):
        for number, row in enumerate(row for row in report.rows if row.base == summary.base):
            figures = [row.figures[name] for name in MEASURES]
            places = [group + (number - (len(TenantArm) - 1) / 2) * width for group in range(len(figures))]
            means = [each.mean for each in figures]
            errors = [
                [max(each.mean - each.low, 0.0) for each in figures],
                [max(each.high - each.mean, 0.0) for each in figures],
            ]
            label = f"{row.arm} ({row.prompt_tokens:,.0f} prompt tokens)"
            axes.bar(places, means, width, yerr=errors, capsize=2, color=_COLORS[row.arm], label=label)
            for place, mean in zip(places, means, strict=True):
                axes.text(place, 0.01, f"{mean:.2f}", ha="center", va="bottom", size=7, rotation=90)
        axes.set_xticks(range(len(MEASURES)), list(MEASURES.values()), fontsize=8)
        axes.set_ylim(0, 1.1)
        axes.set_ylabel("share of right next actions")
        axes.set_title(
            f"{summary.base}: {summary.actions} actions of {summary.tasks} held-out tasks of "
            f"{len(summary.tenants)} tenants, 95 % intervals",
            fontsize=10,
        )
        axes.legend(loc="upper right", ncols=len(TenantArm), frameon=False, fontsize=6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)
