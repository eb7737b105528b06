"""Run ``python -m looper.benchmarks.synthesis.ablation OUT``: measure missing results, and write the report.

Several of these commands may run on one folder at the same time. On a CPU, one per core is fastest: ``--sharing 2``.
"""

import argparse
from pathlib import Path

from looper.basemodel.prepare import prepare_base
from looper.benchmarks.machine import describe_machine
from looper.benchmarks.synthesis.ablation.bench import AblationTrainer, load_rows, plan_ablation, run_variants
from looper.benchmarks.synthesis.ablation.report import build_report, to_markdown
from looper.jobs.consolidation.model.device import pick_device, set_thread_count
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.single_process_group import single_process_group
from looper.platform.settings import load_settings


def main() -> None:
    """Parse the command line, train and evaluate the planned variants, and write ``ablation.{json,md}``."""
    parser = argparse.ArgumentParser(prog="python -m looper.benchmarks.synthesis.ablation", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the results and of the report")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas")
    parser.add_argument("--only", default="", help="variants, such as 'full,full without prune'; default: all")
    parser.add_argument("--sharing", type=int, default=1, help="number of these commands that share the cores")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    planned = plan_ablation(seeds, list(filter(None, arguments.only.split(","))))
    settings = load_settings()
    with single_process_group():
        set_thread_count(arguments.sharing)
        folder = prepare_base(settings)
        trainer = AblationTrainer(folder, SharedBase(folder, pick_device()))
        run_variants(arguments.out, planned, trainer.train_and_evaluate, lambda line: print(line, flush=True))
    report = build_report(load_rows(arguments.out), seeds, describe_machine(), settings.base)
    (arguments.out / "ablation.json").write_text(report.model_dump_json(indent=1) + "\n")
    (arguments.out / "ablation.md").write_text(to_markdown(report))


if __name__ == "__main__":
    main()
