"""``python -m tests.cluster.faults``: faults on a cluster of several nodes, and docs/results/cluster.md. Needs root."""

import argparse
import subprocess
import tempfile
from pathlib import Path

from looper.benchmarks.machine import describe_machine
from tests.cluster.faults.report import ClusterResults, Run
from tests.cluster.faults.scenario import FAULTS, fault_lab


def main() -> None:
    """Run the faults that are asked for, one after another on one deployment."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.faults", description=__doc__)
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=list(FAULTS), help="which faults (all)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the results (docs/results)")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    run = run_faults(Path(tempfile.mkdtemp(prefix="looper-faults-")), args.only, commit)
    results = ClusterResults.load(args.out)
    results.add(run)
    results.write(args.out)
    print("\n".join(run.find_misses()) or "nothing was missed")


def run_faults(folder: Path, faults: list[str], commit: str) -> Run:
    """Have faults in a new lab.

    Args:
        folder: A folder for the lab.
        faults: Names of the faults.
        commit: What is tested.
    """
    with fault_lab(folder / "lab") as lab:
        for fault in faults:
            lab.inflict(fault)
            print(f"{fault} is over", flush=True)
        found, consolidations = lab.conclude()
    return Run(machine=describe_machine(), commit=commit, faults=found, consolidations=consolidations)


if __name__ == "__main__":
    main()
