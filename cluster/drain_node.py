"""Empties this node before it ends: ``python -m looper.cluster.drain_node --grace-s 110``.

The chart runs it in a pod that is going to end (``kubectl drain``, a rolling change, a spot notice that Kubernetes
handles). It tells Ray, and waits until no replica of Looper runs here. ``serve/deployment/drain_watcher.py`` says what
happens meanwhile.
"""

import argparse
import os
import subprocess
import sys
import time

import psutil
from ray._private.services import find_bootstrap_address

from looper.platform.domain.errors import InvalidInput
from looper.serve.routing.known_replicas import APP_NAME

POLL_INTERVAL_S = 0.5
"""Seconds between two looks at the processes of this node."""

REASON = "DRAIN_NODE_REASON_PREEMPTION"
"""Ray refuses to drain a node for any other reason while something runs there."""


def drain_node(grace_s: int) -> bool:
    """Tell Ray that this node will go, and wait until its replicas have ended.

    Args:
        grace_s: How long the node goes on, in seconds.

    Returns:
        Whether they have ended in time.

    Raises:
        InvalidInput: No Ray runs on this node.
        subprocess.CalledProcessError: Ray does not answer, or refuses.
    """
    deadline = time.monotonic() + grace_s
    address = os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None)
    if not address:
        raise InvalidInput("no Ray runs on this node: set RAY_ADDRESS to the HOST:PORT of its head")
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={address}"]
    command += [f"--reason={REASON}", "--reason-message=the node ends", f"--deadline-remaining-seconds={grace_s}"]
    subprocess.run(command, check=True, timeout=grace_s, env=os.environ | {"RAY_ADDRESS": address})
    while count_replicas():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def count_replicas() -> int:
    """Return how many replicas of Looper run on this node, as Ray names their processes."""
    names = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return sum(name.startswith(f"ray::ServeReplica:{APP_NAME}:") for name in names)


def main() -> None:
    """Drain this node."""
    parser = argparse.ArgumentParser(prog="python -m looper.cluster.drain_node", description=__doc__)
    parser.add_argument("--grace-s", type=int, required=True, help="how long this node goes on, in seconds")
    try:
        is_empty = drain_node(parser.parse_args().grace_s)
    except (InvalidInput, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    if not is_empty:
        sys.exit("error: replicas of Looper still run on this node: give the pod more time, or ask for shorter answers")


if __name__ == "__main__":
    main()
