"""Write the gym's trajectories: ``python -m looper.gym --out examples --seed 0``."""

import argparse
from pathlib import Path

from looper.gym.generate import write_examples


def main() -> None:
    """Parse the command line, write the example files and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m looper.gym", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for file in write_examples(arguments.out, arguments.seed):
        print(file)


if __name__ == "__main__":
    main()
