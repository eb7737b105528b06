"""What becomes of a request whose engine dies: real replicas of Ray Serve, with a script instead of an engine."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from looper.serve.deployment import engine_client
from looper.serve.deployment.engine_client import PooledEngineClient
from looper.serve.protocol import (
    AdmissionInfo,
    EngineDied,
    EngineOutput,
    EngineRequest,
    EngineUnavailable,
    FullResponse,
    StreamChunk,
    TokenCounts,
)
from looper.serve.routing import known_replicas, silent_replicas
from tests.serve.live import LiveServer

APP = "scripted-engines"


def record_attempt(file: Path, replica: str) -> int:
    """Add a line; return the number of earlier attempts."""
    earlier = file.read_text() if file.exists() else ""
    file.write_text(f"{earlier}{replica}\n")
    return len(earlier.splitlines())


def tell_pid(file: Path) -> None:
    file.write_text(f"{os.getpid()}")


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)  # the replica and the test share nothing else


class ScriptedReplica:
    """Runs the script in a request's body: one list of steps for each replica that the request is sent to."""

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Any, None]:
        body, replica = request.body, serve.get_replica_context().replica_id.unique_id
        number = record_attempt(Path(body["attempts"]), replica)
        for step in body["script"][number]:
            match step:
                case "tell pid":
                    tell_pid(Path(body["pid"]))
                case "hold":
                    await asyncio.to_thread(wait_for, Path(body["release"]))
                case "admit":
                    yield AdmissionInfo("memory", 0, 0, 0, {})
                case "count":
                    yield StreamChunk("", TokenCounts(5, 16))
                case "say":
                    yield StreamChunk("data: {}\n\n", TokenCounts(5, 17))
                case "respond":
                    yield FullResponse(200, b"{}", tokens=TokenCounts(5, 20))
                case "engine dies":
                    yield EngineDied(replica, retry_after_s=7.2)
                case "process dies":
                    os._exit(1)


@pytest.fixture(scope="module")
def replicas(live: LiveServer) -> Iterator[DeploymentHandle[Any]]:
    """Beside the live server, because whoever starts Ray Serve decides its port."""
    deployment = serve.deployment(
        name="scripted",
        num_replicas=2,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100,
        request_router_config=RequestRouterConfig(
            request_router_class="looper.serve.routing.replica_router.AdapterAffinityRouter",  # type: ignore[arg-type]
            request_router_kwargs={"max_num_seqs": 4},
        ),
    )(ScriptedReplica)
    yield serve.run(deployment.bind(), name=APP, route_prefix=None)
    serve.delete(APP)


class Scripted:
    """A gateway's client, and what the replicas received from it."""

    def __init__(self, handle: DeploymentHandle[Any], folder: Path, loop: asyncio.Runner) -> None:
        self._loop = loop
        self._client = PooledEngineClient({"base": {8: handle}})
        self._folder = folder
        self.heard: list[Any] = []

    def request(self, *script: list[str], name: str = "request") -> EngineRequest:
        body = {"attempts": str(self._folder / name), "script": script, "request_id": os.urandom(4).hex()}
        body |= {"pid": str(self._folder / "pid"), "release": str(self._folder / "release")}
        return EngineRequest("completions", body, digest="d" * 64, rank=8, tenant_hash="t")

    def attempts(self, name: str = "request") -> list[str]:
        """Return the replicas that received the request."""
        path = self._folder / name
        return path.read_text().split() if path.exists() else []

    def send(self, request: EngineRequest) -> None:
        """Send a request and collect what its client would hear."""

        async def collect() -> None:
            async for output in self._client.generate(request):
                if isinstance(output, FullResponse) or (isinstance(output, StreamChunk) and output.text):
                    self.heard.append(output)

        self.heard = []
        self._loop.run(asyncio.wait_for(collect(), 60))

    def refusal(self, request: EngineRequest) -> FullResponse:
        with pytest.raises(EngineUnavailable) as raised:
            self.send(request)
        return raised.value.response


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """The event loop in which Ray Serve's router lives."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def scripted(replicas: DeploymentHandle[Any], tmp_path: Path, loop: asyncio.Runner) -> Scripted:
    return Scripted(replicas, tmp_path, loop)


@pytest.mark.parametrize(
    "death",
    [
        ["engine dies"],
        ["admit", "count", "engine dies"],
    ],
    ids=["queued", "generating"],
)
def test_a_request_that_has_heard_nothing_goes_elsewhere_once(scripted: Scripted, death: list[str]) -> None:
    scripted.send(scripted.request(death, ["admit", "count", "respond"]))
    assert [output.status for output in scripted.heard] == [200]
    first, second = scripted.attempts()
    assert first != second


def test_it_does_not_go_elsewhere_twice(scripted: Scripted) -> None:
    response = scripted.refusal(scripted.request(["engine dies"], ["engine dies"], ["respond"]))
    assert (response.status, response.headers["retry-after"]) == (503, "8")
    assert b'"engine_gone"' in response.body
    assert len(scripted.attempts()) == 2


def test_a_request_that_an_engine_had_just_received_is_not_tried_on_another(scripted: Scripted) -> None:
    response = scripted.refusal(scripted.request(["admit", "engine dies"], ["respond"]))
    assert (response.status, response.headers["retry-after"]) == (503, "8")
    assert b'"engine_died"' in response.body
    assert len(scripted.attempts()) == 1


def test_a_request_that_has_been_heard_is_not_tried_on_another(scripted: Scripted) -> None:
    scripted.refusal(scripted.request(["admit", "say", "engine dies"], ["respond"]))
    assert len(scripted.heard) == len(scripted.attempts()) == 1


def test_a_request_at_which_engines_die_is_refused_and_others_are_not(scripted: Scripted) -> None:
    script = [["admit", "engine dies"]] * 3
    assert (scripted.refusal(scripted.request(*script))).status == 503
    assert (scripted.refusal(scripted.request(*script))).status == 503  # an engine died in its turn
    response = scripted.refusal(scripted.request(*script))
    assert (response.status, len(scripted.attempts())) == (422, 2)
    assert b'"engine_killer"' in response.body
    scripted.send(scripted.request(["respond"], name="other"))
    assert len(scripted.heard) == 1


def test_a_replica_whose_engine_is_dead_leaves_the_rotation(scripted: Scripted) -> None:
    scripted.send(scripted.request(["engine dies"], ["respond"]))
    dead, alive = scripted.attempts()
    requests = [scripted.request(["respond"], name=str(number)) for number in range(8)]
    for request in requests:
        scripted.send(request)
    assert {replica for number in range(8) for replica in scripted.attempts(str(number))} == {alive}
    assert dead != alive


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is silent, and has not accepted a request, sooner than usual."""
    monkeypatch.setattr(silent_replicas, "SILENCE_S", 0.5)
    monkeypatch.setattr(engine_client, "MAX_ACCEPT_WAIT_S", 2.0)
    monkeypatch.setattr(engine_client, "CHECK_INTERVAL_S", 0.05)


@pytest.mark.usefixtures("soon")
def test_a_replica_that_stands_still_gets_no_requests(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.send(scripted.request(["tell pid", "respond"], name="before"))
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    process.suspend()
    try:
        for number in range(4):
            scripted.send(scripted.request(["respond"], ["respond"], name=f"{number}"))
    finally:
        process.resume()
    (home,) = scripted.attempts("before")
    others = {scripted.attempts(f"{number}")[0] for number in range(4)}
    assert home not in others
    assert caplog.text.count("no replica has accepted") == 1, "the others were not sent there"


@pytest.mark.usefixtures("soon")
def test_a_request_that_a_replica_has_accepted_may_take_its_time(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    @contextmanager
    def counting(request: EngineRequest) -> Iterator[Callable[[], bool]]:
        with known_replicas.expecting_acceptance(request) as is_accepted:

            def look() -> bool:
                nonlocal looks
                looks += 1
                if looks == 3:
                    (tmp_path / "release").touch()
                return is_accepted()

            yield look

    monkeypatch.setattr(engine_client, "expecting_acceptance", counting)
    scripted.send(scripted.request(["hold", "respond"], ["respond"]))
    assert len(scripted.attempts()) == 1
    assert looks >= 3


class WaitingPool:
    """A handle whose requests wait for a replica without a limit, as Ray Serve's do."""

    deployment_name = "waiting"

    def __init__(self) -> None:
        self.cancelled = 0

    def options(self, **_: Any) -> "WaitingPool":
        return self

    def remote(self, _: EngineRequest) -> "WaitingPool":
        return self

    async def __anext__(self) -> NoReturn:
        self.start_to_wait()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def start_to_wait(self) -> None:
        """Nobody has heard of a replica, as after a restart of the cluster."""

    def cancel(self) -> None:
        self.cancelled += 1


class DyingPool(WaitingPool):
    """A pool whose last replica dies when it gets a request."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas = 1
        known_replicas.watch(self.deployment_name, lambda: self.replicas)

    def start_to_wait(self) -> None:
        self.replicas = 0


@pytest.mark.parametrize("pool_class", [WaitingPool, DyingPool])
def test_a_request_does_not_wait_for_replicas_that_do_not_run(
    pool_class: type[WaitingPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_replicas, "_counts", {})
    monkeypatch.setattr(engine_client, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(engine_client, "MAX_START_WAIT_S", 0.05)
    pool: Any = pool_class()
    request = EngineRequest("completions", {}, digest="d" * 64, rank=8, tenant_hash="t")

    async def send() -> None:
        async for _ in PooledEngineClient({"base": {8: pool}}).generate(request):
            raise AssertionError("nobody answered")

    with pytest.raises(EngineUnavailable) as raised:
        asyncio.run(asyncio.wait_for(send(), 10))
    assert (raised.value.response.status, raised.value.response.headers["retry-after"]) == (503, "10")
    assert pool.cancelled == 1


class StartingPool(WaitingPool):
    """A pool at zero, whose first engine comes up much later than anything else would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.is_up = asyncio.Event()
        self.answers = [FullResponse(200, b"{}")]
        known_replicas.watch(self.deployment_name, self.count)

    def count(self) -> int:
        self.looks += 1
        if self.looks == 20:
            self.is_up.set()
        return 0

    def __aiter__(self) -> "StartingPool":
        return self

    async def __anext__(self) -> Any:
        await self.is_up.wait()
        if not self.answers:
            raise StopAsyncIteration
        return self.answers.pop()


def test_the_first_request_to_a_pool_at_zero_waits_for_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_replicas, "_counts", {})
    monkeypatch.setattr(engine_client, "CHECK_INTERVAL_S", 0.001)
    monkeypatch.setattr(engine_client, "MAX_START_WAIT_S", 0.0)
    pool: Any = StartingPool()
    request = EngineRequest("completions", {}, digest="d" * 64, rank=8, tenant_hash="t")

    async def send() -> list[EngineOutput]:
        client = PooledEngineClient({"base": {8: pool}}, from_zero=[pool.deployment_name])
        return [output async for output in client.generate(request)]

    assert asyncio.run(asyncio.wait_for(send(), 10)) == [FullResponse(200, b"{}")]
    assert pool.looks == 20


class UntouchedPool:
    """A handle that nobody has used yet."""

    deployment_name = "untouched"

    def options(self, **_: Any) -> NoReturn:
        raise AssertionError("a call wakes the pool")


def test_a_prefetch_wakes_no_pool_that_has_gone_to_zero() -> None:
    pools: Any = {"base": {8: UntouchedPool()}}
    asyncio.run(PooledEngineClient(pools, from_zero=["untouched"]).prefetch("base", "d" * 64, 8, 30.0))
    with pytest.raises(AssertionError, match="wakes"):  # of a pool that always has replicas, it calls one
        asyncio.run(PooledEngineClient(pools).prefetch("base", "d" * 64, 8, 30.0))


# The last tests, because replicas that end are replaced only after a while.
def test_a_request_that_kills_its_replica_kills_no_second_one(scripted: Scripted) -> None:
    response = scripted.refusal(scripted.request(*[["admit", "process dies"]] * 3))
    assert response.status == 503
    assert len(scripted.attempts()) == 1


def test_nobody_waits_for_a_replica_that_is_started(scripted: Scripted) -> None:
    response = scripted.refusal(scripted.request(*[["process dies"]] * 3))
    assert response.status == 503
    assert len(scripted.attempts()) <= 2
