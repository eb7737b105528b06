"""The two ways to run the benchmark: with a Looper of its own on this machine, and at an endpoint that runs already.

``looper bench skill`` calls ``bench_locally`` or ``bench_endpoint``.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.bench import bench
from looper.benchmarks.skill.plan import MAX_CONTEXT_TOKENS, plan_settings
from looper.benchmarks.skill.report import SkillBenchReport
from looper.benchmarks.skill.served_models import ServedModels, find_models
from looper.benchmarks.skill.worlds import Experience
from looper.demo.run import RECIPE
from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.errors import InvalidInput


def bench_locally(worlds: Sequence[str], base: str | None, out: Path, *, quick: bool) -> SkillBenchReport:
    """Run the benchmark with a Looper of its own, whose state is in the output folder.

    Args:
        worlds: Names of worlds; none at all for the default.
        base: Name of the base model, or None for that of the settings.
        out: Folder of the results.
        quick: Whether to run the small version.

    Returns:
        The report.
    """
    from rich.console import Console

    from looper.basemodel.prepare import prepare_base
    from looper.benchmarks.machine import describe_machine
    from looper.benchmarks.skill.local_skills import teach_and_serve
    from looper.demo.stage_display import StageDisplay
    from looper.platform.settings import load_settings

    # SIGTERM is handled like Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = {"base": base} if base else {}
    settings = load_settings(home=out / "state", serve={"port": 0}, bases=(), **chosen)
    with StageDisplay(Console(stderr=True, highlight=False)) as stages:
        stages.begin("base model", f"{settings.base}, prepared once and kept in {settings.models_dir}")
        model_dir = prepare_base(settings)
        plan = plan_settings(
            endpoint="local",
            base=settings.base,
            worlds=worlds,
            recipe=RECIPE.resolve_learning_rate(read_base_manifest(model_dir).parameters),
            max_context_tokens=_read_context(model_dir),
            quick=quick,
        )
        serve = {"port": 0, "max_model_len": plan.context_tokens}
        settings = load_settings(home=out / "state", serve=serve, bases=(), **chosen)
        return bench(
            plan,
            out,
            lambda experiences, adapters: teach_and_serve(plan, experiences, adapters, settings, model_dir, stages),
            machine=describe_machine(),
            notify=stages.note,
        )


def bench_endpoint(
    url: str,
    key: str,
    model: str | None,
    worlds: Sequence[str],
    out: Path,
    *,
    quick: bool,
    notify: Callable[[str], None],
) -> SkillBenchReport:
    """Run the benchmark at an endpoint of OpenAI's API that runs already.

    Args:
        url: Base URL of OpenAI's API.
        key: Key of the endpoint.
        model: Name of the base model there.
        worlds: Names of worlds; none at all for the default.
        out: Folder of the results.
        quick: Whether to run the small version.
        notify: Called with the progress.

    Returns:
        The report.

    Raises:
        InvalidInput: There is no model.
        LooperError: The endpoint does not answer, or does not have the model.
    """
    if model is None:
        raise InvalidInput("--url needs the name of the base model there: add --model")
    plan = plan_settings(
        endpoint=url,
        base=model,
        worlds=worlds,
        recipe=RECIPE,
        max_context_tokens=MAX_CONTEXT_TOKENS,
        quick=quick,
    )

    @contextmanager
    def find(experiences: Sequence[Experience], adapters: Sequence[Adapter]) -> Iterator[ServedModels]:
        unique = {experience.world.instance: experience.world for experience in experiences}
        yield find_models(url, key, model, unique.values(), plan.seeds)

    return bench(plan, out, find, machine=f"endpoint {url}", notify=notify)


def _read_context(model_dir: Path) -> int:
    """Return how many tokens the base model can have in its context."""
    config = json.loads((model_dir / "config.json").read_text())
    return int(config.get("max_position_embeddings", MAX_CONTEXT_TOKENS))
