"""Memory and file descriptors of the cluster's processes."""

import threading
import time
from collections import defaultdict
from statistics import median

import psutil

from tests.chaos.cluster import ChaosCluster

INTERVAL_S = 5.0
"""Time between two samples, in seconds."""

SETTLED_AFTER_S = 120.0
"""A process is measured when it has run for this long, in seconds: until then, it still loads."""

MAX_GROWTH = 1.2
"""How much larger than in the first third of the run the median of the last third may be."""

MAX_MEMORY_GROWTH_BYTES = 64 * 2**20
"""Growth of memory that is allowed in any case."""

MAX_DESCRIPTOR_GROWTH = 50
"""Growth of the number of file descriptors that is allowed in any case."""


class ResourceMonitor:
    """Samples the processes of each role in the background."""

    def __init__(self, cluster: ChaosCluster) -> None:
        """Prepare; nothing is sampled yet."""
        self._cluster = cluster
        self._samples: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> None:
        """Start sampling."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            for role, processes in self._cluster.processes().items():
                for process in processes:
                    try:
                        if time.time() - process.create_time() > SETTLED_AFTER_S:
                            sample = time.monotonic(), process.memory_info().rss, process.num_fds()
                            self._samples[role].append(sample)
                    except (psutil.NoSuchProcess, psutil.AccessDenied):
                        continue

    def summarize(self) -> dict[str, dict[str, int]]:
        """Return the medians of the first and the last third of the run, by role."""
        summary = {}
        times = [at for samples in self._samples.values() for at, _, _ in samples]
        if not times:
            return {}
        third = (max(times) - min(times)) / 3
        for role, samples in self._samples.items():
            first = [sample for sample in samples if sample[0] <= min(times) + third]
            last = [sample for sample in samples if sample[0] >= max(times) - third]
            if first and last:
                summary[role] = {
                    "first_mib": int(median(rss for _, rss, _ in first)) >> 20,
                    "last_mib": int(median(rss for _, rss, _ in last)) >> 20,
                    "first_descriptors": int(median(count for _, _, count in first)),
                    "last_descriptors": int(median(count for _, _, count in last)),
                }
        return summary

    def find_growth(self) -> list[str]:
        """Return the roles whose memory or descriptors grew, in words."""
        found = []
        for role, each in self.summarize().items():
            allowed_mib = max(MAX_GROWTH * each["first_mib"], each["first_mib"] + (MAX_MEMORY_GROWTH_BYTES >> 20))
            if each["last_mib"] > allowed_mib:
                found.append(f"memory of {role} grew from {each['first_mib']} to {each['last_mib']} MiB")
            allowed = max(MAX_GROWTH * each["first_descriptors"], each["first_descriptors"] + MAX_DESCRIPTOR_GROWTH)
            if each["last_descriptors"] > allowed:
                before, after = each["first_descriptors"], each["last_descriptors"]
                found.append(f"file descriptors of {role} grew from {before} to {after}")
        return found
