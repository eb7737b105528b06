"""Measure what a skill adds on real tenants: ``python -m looper.benchmarks.real_tenants FOLDER --home HOME --out OUT``.

FOLDER has one folder of trajectories per tenant, of any format that ``looper ingest`` reads. Each tenant's skill is
trained with the default recipe. Five arms are asked the next actions of held-out tasks (``arms.py``, ``actions.py``):
the base model bare, with the tenant's policy, and with retrieved episodes; the skill; the skill with both. Three seeds
hold out other tasks each (``tenants.py``).

Results that exist in OUT are not measured again, so an interrupted command goes on where it was. The same command with
``--base`` adds the rows of another base model to the same report. Several of these commands may run on one OUT at the
same time; they divide the runs. ``--quick`` checks in a few minutes that all of it works, and says nothing about
skills.

Example: ``python -m looper.benchmarks.real_tenants ../shared/data/tau2-tenants --out tenants --sharing 2``
"""

import argparse
from pathlib import Path
from typing import Any

from looper.basemodel.prepare import prepare_base
from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.benchmarks.machine import describe_machine
from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.settings import load_settings

SEEDS = "0,1,2"
"""Seeds of a full run. Each holds out other tasks."""


def main() -> None:
    """Read the arguments, run the benchmark, and print the report."""
    parser = argparse.ArgumentParser(
        prog="python -m looper.benchmarks.real_tenants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with one folder of trajectories per tenant")
    parser.add_argument("--home", type=Path, help="LOOPER_HOME, whose settings and base models are used")
    parser.add_argument("--base", help="base model, as in the setting base; default: the settings' own")
    parser.add_argument("--out", type=Path, default=Path("tenants"), help="folder for results, skills and the report")
    parser.add_argument("--seeds", default=SEEDS, help=f"seeds, separated by commas; default: {SEEDS}")
    parser.add_argument("--sharing", type=int, default=1, help="number of these commands on this machine")
    parser.add_argument(
        "--forgetting", action="store_true", help="then also learn the tenants as sessions of one agent"
    )
    parser.add_argument("--quick", action="store_true", help="two tenants, one seed and four steps, as a check")
    arguments = parser.parse_args()
    given = {"home": arguments.home, "base": arguments.base}
    flags: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(**flags)
    with import_vllm_quietly():
        from looper.benchmarks.forgetting.looper_learner import LooperLearner
        from looper.benchmarks.real_tenants.bench import bench
        from looper.benchmarks.real_tenants.model import TenantModel
        from looper.benchmarks.real_tenants.report import to_markdown
        from looper.jobs.consolidation.model.device import pick_device, set_thread_count
        from looper.jobs.consolidation.model.shared_base import SharedBase
        from looper.jobs.consolidation.training.single_process_group import single_process_group
    set_thread_count(arguments.sharing)
    model_dir = prepare_base(settings)
    max_rank = settings.serve.max_rank
    with single_process_group():
        report = bench(
            arguments.folder,
            settings.base,
            TenantModel(model_dir, SharedBase(model_dir, pick_device()), max_rank),
            arguments.out,
            recipe=settings.consolidation.recipe.resolve_learning_rate(read_base_manifest(model_dir).parameters),
            seeds=[int(seed) for seed in arguments.seeds.split(",")],
            machine=describe_machine(),
            learner=(lambda: LooperLearner(model_dir, max_rank)) if arguments.forgetting else None,
            quick=arguments.quick,
            notify=lambda line: print(line, flush=True),
        )
    print(to_markdown(report))


if __name__ == "__main__":
    main()
