"""``make gpu-check``: in ten minutes on a machine with a GPU, whether training and serving are right, and how fast.

It writes ``docs/results/gpu-<name>.json``. Without a GPU it runs the same in tiny sizes, and writes no file.
"""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.gpu_check.run import MARK, PARTS, run_all, run_part_here, write_result


def main() -> None:
    """Run all parts, or one of them in this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that everything is ended
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder for the result (docs/results)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        result = run_part_here(arguments.part, arguments.folder, lambda line: print(MARK + line, flush=True))
        (arguments.folder / "result.json").write_text(json.dumps(asdict(result)))
        return
    with TemporaryDirectory(prefix="looper-gpu-check-") as folder:
        results = run_all(Path(folder), lambda line: print(f"{datetime.now():%H:%M:%S} {line}", flush=True))
    file = write_result(arguments.out, results)
    print(f"see {file}" if file else "there is no GPU: no file is written")
    sys.exit(any(result.errors for result in results.values()))


if __name__ == "__main__":
    main()
