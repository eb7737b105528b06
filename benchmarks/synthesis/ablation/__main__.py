"""``python -m looper.benchmarks.synthesis.ablation OUT``: do what OUT does not hold yet, and write the report.

Several of these may run on one folder. On a CPU, one per core is fastest: ``--sharing 2``.
"""

import argparse
from pathlib import Path

from looper.benchmarks.machine import describe
from looper.benchmarks.synthesis.ablation.bench import AblationTrainer, plan, rows, run
from looper.benchmarks.synthesis.ablation.report import report, to_markdown
from looper.jobs.basemodel.prepare import prepare
from looper.jobs.consolidation.model.device import pick_device, use_cores
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.single_process_group import single_process_group
from looper.platform.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m looper.benchmarks.synthesis.ablation", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="variants, such as 'full,full without prune'; default all")
    parser.add_argument("--sharing", type=int, default=1, help="how many of these commands share the cores")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    wanted = plan(seeds, list(filter(None, arguments.only.split(","))))
    settings = load_settings()
    with single_process_group():
        use_cores(arguments.sharing)
        folder = prepare(settings.base, settings.models_dir)
        learner = AblationTrainer(folder, SharedBase(folder, pick_device()))
        run(arguments.out, wanted, learner.try_out, lambda line: print(line, flush=True))
    found = report(rows(arguments.out), seeds, describe(), settings.base)
    (arguments.out / "pays.json").write_text(found.model_dump_json(indent=1) + "\n")
    (arguments.out / "pays.md").write_text(to_markdown(found))


if __name__ == "__main__":
    main()
