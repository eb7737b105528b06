"""``python -m tests.cluster.faults``: faults on a cluster of several nodes, and docs/results/cluster.md. Needs root."""

import argparse
import subprocess
import tempfile
import time
from math import inf
from pathlib import Path

from looper.benchmarks.machine import describe_machine
from tests.cluster.faults.report import ClusterResults, Run
from tests.cluster.faults.scenario import FAULTS, fault_lab

FAULT_S, CONCLUDE_S, END_S = 130.0, 90.0, 20.0
"""How long a fault and all after it may take, the consolidations at the end, and the end of the lab, in seconds."""

MAX_CONCLUDE_S = 240.0
"""How long consolidations may take where there is time, in seconds."""


def main() -> None:
    """Run the faults that are asked for, one after another on one deployment."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.faults", description=__doc__)
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=list(FAULTS), help="which faults (all)")
    parser.add_argument("--seconds", type=float, default=inf, help="for the whole run (no limit)")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the results (docs/results)")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    run = run_faults(Path(tempfile.mkdtemp(prefix="looper-faults-")), args.only, commit, args.seconds)
    results = ClusterResults.load(args.out)
    results.add(run)
    results.write(args.out)
    print("\n".join(run.find_misses()) or "nothing was missed")


def run_faults(folder: Path, faults: list[str], commit: str, seconds: float = inf) -> Run:
    """Have faults in a new lab.

    Args:
        folder: A folder for the lab.
        faults: Names of the faults.
        commit: What is tested.
        seconds: For the whole run. Faults for which no time is left are left out, but not the first.
    """
    deadline = time.monotonic() + seconds
    with fault_lab(folder / "lab") as lab:
        for number, fault in enumerate(faults):
            if number and time.monotonic() + FAULT_S + CONCLUDE_S > deadline:
                print(f"there is no time left for {', '.join(faults[number:])}")
                break
            lab.inflict(fault)
            print(f"{fault} is over", flush=True)
        left_s = deadline - time.monotonic() - END_S
        found, consolidations = lab.conclude(min(MAX_CONCLUDE_S, max(END_S, left_s)))
    return Run(machine=describe_machine(), commit=commit, faults=found, consolidations=consolidations)


if __name__ == "__main__":
    main()
