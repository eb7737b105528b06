"""The simulated cluster: replicas that come and go, by failures, restarts and the real autoscaling policy."""

import asyncio
import itertools
from collections import deque
from collections.abc import Coroutine, Mapping
from statistics import fmean
from types import SimpleNamespace

from looper.benchmarks.scale.simulation.catalog import SimulatedCatalog
from looper.benchmarks.scale.simulation.engine import SimulatedReplica
from looper.benchmarks.scale.simulation.gateway import SimulatedGateway
from looper.benchmarks.scale.simulation.scenarios import ScaleScenario
from looper.serve.routing.autoscaling import DOWNSCALE_DELAY_S, LOOK_BACK_S, UPSCALE_DELAY_S, EngineCountPolicy
from looper.serve.routing.placement import Placement

DRAIN_CHECK_S = 0.5
"""Time between two looks whether a replica that is drained has ended its requests, in seconds."""

SCALING_INTERVAL_S = 1.0
"""Time between two decisions on the number of replicas, in seconds."""

SAMPLE_INTERVAL_S, REPORT_INTERVAL_S = 2.0, 10.0
"""Time between two samples of a replica's load, and between two reports of them, in seconds: Ray Serve's defaults."""


class SimulatedCluster:
    """Replicas and gateways of a scenario.

    Args:
        scenario: The scenario.
        catalog: The catalog.

    Attributes:
        replicas: All replicas that ever were, by id.
        running: Ids of those that take requests.
        gateways: The gateways.
    """

    def __init__(self, scenario: ScaleScenario, catalog: SimulatedCatalog) -> None:
        self._scenario = scenario
        self._catalog = catalog
        self._numbers = itertools.count()
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.replicas: dict[str, SimulatedReplica] = {}
        self.running: dict[str, SimulatedReplica] = {}
        for _ in range(scenario.replicas):
            self._add()
        self.gateways = [
            SimulatedGateway(number, self.replicas, scenario.profile, catalog, scenario.max_popular)
            for number in range(scenario.gateways)
        ]
        self._tell()

    async def warm_up(self) -> None:
        """Load the most popular adapters on the replicas that will get their requests."""
        placement, homes = Placement(self.running), dict[str, list[str]]()
        for adapter in reversed(range(self._scenario.warm_adapters)):
            digest = self._catalog.resolve(adapter).digest
            homes.setdefault(next(placement.rank(digest)), []).append(digest)
        for id, digests in homes.items():
            await self.replicas[id].warm_up(digests)

    def lose_node(self) -> None:
        """Kill the first node. New replicas start in its place."""
        self._lose([replica for replica in self.running.values() if replica.node == 0])

    def lose_zone(self) -> None:
        """Kill the first zone. New replicas start in its place."""
        zones = self._scenario.zones
        self._lose([replica for replica in self.running.values() if replica.node % zones == 0])

    async def restart_in_turn(self) -> None:
        """Drain one replica after another, and start another one before each."""
        for id in list(self.running):
            await asyncio.sleep(1 / self._scenario.restarts_per_s)
            if id in self.running:
                self._start(self._replace_drained(id))

    async def autoscale(self) -> None:
        """Add and remove replicas as the real policy says, with the delays that Ray Serve is configured with."""
        asked_s, stats = {1: 0.0, -1: 0.0}, _ReportedStats()
        # The replicas that are there at the beginning came up under the eyes of the policy.
        policy = EngineCountPolicy(self._scenario.engine_start_s)
        while True:
            await asyncio.sleep(SCALING_INTERVAL_S)
            current = len(self.running) + self._starting
            target, _ = policy(
                SimpleNamespace(
                    current_time=asyncio.get_running_loop().time(),
                    last_scale_up_time=None,
                    aggregated_metrics=stats.update(self.running),
                    current_num_replicas=len(self.running),
                    target_num_replicas=current,
                    total_queued_requests=0,
                    capacity_adjusted_min_replicas=1,
                    capacity_adjusted_max_replicas=self._scenario.max_replicas,
                )
            )
            for direction, delay_s in ((1, UPSCALE_DELAY_S), (-1, DOWNSCALE_DELAY_S)):
                is_asked = (target - current) * direction > 0
                asked_s[direction] = asked_s[direction] + SCALING_INTERVAL_S if is_asked else 0.0
                if asked_s[direction] > delay_s:
                    asked_s[direction] = 0.0
                    self._change_by(target - current)

    def _change_by(self, count: int) -> None:
        for _ in range(count):
            self._start(self._add_later())
        for id in list(self.running)[::-1][: max(0, -count)]:
            self._start(self._drain(id))

    def _add(self) -> None:
        number = next(self._numbers)
        # A new replica has a new id, as in Ray Serve.
        replica = SimulatedReplica(f"r{number:08d}", number // self._scenario.replicas_per_node, self._scenario.profile)
        self.replicas[replica.id] = self.running[replica.id] = replica

    async def _add_later(self) -> None:
        self._starting += 1
        await asyncio.sleep(self._scenario.engine_start_s)
        self._starting -= 1
        self._add()
        await self._tell_later()

    async def _drain(self, id: str) -> None:
        replica = self.running.pop(id)
        await self._tell_later()
        while replica.ongoing:  # noqa: ASYNC110 (simulated time)
            await asyncio.sleep(DRAIN_CHECK_S)
        replica.kill()

    async def _replace_drained(self, id: str) -> None:
        await self._add_later()
        if id in self.running:
            await self._drain(id)

    def _lose(self, lost: list[SimulatedReplica]) -> None:
        for replica in lost:
            del self.running[replica.id]
            replica.kill()
            self._start(self._add_later())
        self._start(self._tell_later())

    async def _tell_later(self) -> None:
        await asyncio.sleep(self._scenario.detection_s)
        self._tell()

    def _tell(self) -> None:
        for gateway in self.gateways:
            gateway.update_replicas(set(self.running))

    def _start(self, action: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _ReportedStats:
    """What Ray Serve's controller knows of the replicas: means of samples, which replicas send from time to time."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[Mapping[str, float]]] = {}
        self._reported: dict[str, dict[str, float]] = {}

    def update(self, running: Mapping[str, SimulatedReplica]) -> dict[str, dict[str, float]]:
        """Take samples and make reports that are due. Call it every ``SCALING_INTERVAL_S``.

        Args:
            running: The replicas.

        Returns:
            What was reported: by the name of the number, then by replica.
        """
        now_s = asyncio.get_running_loop().time()
        for id, replica in running.items() if now_s % SAMPLE_INTERVAL_S < SCALING_INTERVAL_S else ():
            samples = self._samples.setdefault(id, deque(maxlen=round(LOOK_BACK_S / SAMPLE_INTERVAL_S)))
            samples.append(replica.queue.report_load())
            if now_s % REPORT_INTERVAL_S < SCALING_INTERVAL_S:
                for name in samples[0]:
                    mean = fmean(sample[name] for sample in samples)
                    self._reported.setdefault(name, {})[id] = mean
        return {name: {id: by_id[id] for id in by_id if id in running} for name, by_id in self._reported.items()}
