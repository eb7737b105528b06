"""``python -m tests.chaos``: hurts a cluster for an hour, and writes docs/results/chaos.md."""

import argparse
import random
import signal
import sys
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos.report import ChaosResult, to_markdown
from tests.chaos.run import run_chaos


def notify(line: str) -> None:
    """Print what happens, with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Run once, and write the page of all runs whose results are in the output folder."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is ended
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long faults happen (60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000), help="replays a run")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the results (docs/results)")
    parser.add_argument("--keep", type=Path, help="empty folder that keeps the cluster's files and logs")
    arguments = parser.parse_args()
    notify(f"seed {arguments.seed}: `python -m tests.chaos --seed {arguments.seed}` replays it")
    with TemporaryDirectory(prefix="looper-chaos-") as temporary:
        folder = arguments.keep or Path(temporary, "run")
        Path(temporary).chmod(0o755)  # PostgreSQL runs as another user
        result = run_chaos(folder, arguments.seed, arguments.minutes, notify)
    result.write(arguments.out)
    files = sorted(arguments.out.glob("chaos-*.json"))
    page = to_markdown([ChaosResult.model_validate_json(file.read_bytes()) for file in files])
    (arguments.out / "chaos.md").write_text(page)
    for error in result.errors:
        notify(error)
    notify(f"{sum(result.answered.values())} answers, {len(result.errors)} errors, see {arguments.out / 'chaos.md'}")
    sys.exit(bool(result.errors))


if __name__ == "__main__":
    main()
