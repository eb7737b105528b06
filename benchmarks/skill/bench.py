"""Run ``looper bench skill``: ask every arm the same tasks, and write the report.

``commands.py`` calls ``bench``. It calls ``plan.py``, ``run.py``, ``summary.py``, ``report.py`` and ``charts.py``.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.charts import draw_chart
from looper.benchmarks.skill.plan import SkillBenchSettings, list_missing_adapters, plan_arms
from looper.benchmarks.skill.report import SkillBenchReport, to_markdown
from looper.benchmarks.skill.results import ResultStore
from looper.benchmarks.skill.run import is_complete, run_arms
from looper.benchmarks.skill.served_models import ServedModels
from looper.benchmarks.skill.summary import compute_ratios, summarize_arms
from looper.benchmarks.skill.worlds import Experience, draw_tasks, find_worlds, record_experience

OpenModels = Callable[[Sequence[Experience], Sequence[Adapter]], AbstractContextManager[ServedModels]]
"""Brings up the models that a run needs, or finds them at an endpoint."""


def bench(
    settings: SkillBenchSettings,
    out: Path,
    open_models: OpenModels,
    *,
    machine: str,
    notify: Callable[[str], None],
) -> SkillBenchReport:
    """Play the episodes that are missing, and write ``skill.json``, ``skill.md`` and ``skill.png`` after each arm.

    Args:
        settings: Settings of the run.
        out: Folder of the results.
        open_models: Brings up the models. It is not called if no episode is missing.
        machine: Description of the machine, for the report.
        notify: Called with the progress.

    Returns:
        The report.

    Raises:
        InvalidInput: The folder has results of other settings.
    """
    store = ResultStore(out, settings)
    worlds = find_worlds(settings.worlds)
    experiences = [record_experience(world, seed, settings.episodes) for world in worlds for seed in settings.seeds]
    tasks = {experience: draw_tasks(experience, settings.tasks) for experience in experiences}
    arms, skipped = plan_arms(settings)
    if settings.endpoint == "local":
        missing = list_missing_adapters(worlds)
        skipped |= {arm.name: missing[arm.adapter] for arm in arms if arm.adapter in missing}
        arms = [arm for arm in arms if arm.adapter not in missing]

    def report() -> SkillBenchReport:
        rows = summarize_arms(arms, store)
        made = SkillBenchReport(
            machine=machine, settings=_describe(settings), rows=rows, ratios=compute_ratios(rows), skipped=skipped
        )
        (out / "skill.json").write_text(made.model_dump_json(indent=1) + "\n")
        (out / "skill.md").write_text(to_markdown(made))
        draw_chart(rows, out / "skill.png")
        return made

    if not is_complete(arms, tasks, store):
        with open_models(experiences, list(dict.fromkeys(arm.adapter for arm in arms))) as models:
            skipped |= run_arms(arms, tasks, models, store, notify, report)
    return report()


def _describe(settings: SkillBenchSettings) -> dict[str, str | int | float | bool | list[str] | list[int]]:
    """Return the settings as one level of names, those of the recipe that say how much was trained among them."""
    described = settings.model_dump(mode="json", exclude={"recipe"})
    recipe = settings.recipe.model_dump(
        mode="json",
        include={"method", "strategy", "rank", "learning_rate", "epochs", "max_steps", "batch_size", "max_seq_length"},
        exclude_none=True,
    )
    shares = {f"context_{name}": share for name, share in settings.recipe.contexts.model_dump().items() if share}
    return described | recipe | shares
