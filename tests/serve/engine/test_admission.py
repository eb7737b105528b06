"""The admission queue of an engine, with requests that run for one or a few ticks of the event loop."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import fields

import pytest

from looper.platform.domain.errors import Overloaded
from looper.serve.engine.admission import HIGH_PRIORITY, NORMAL_PRIORITY, AdmissionQueue, QueuedRequest
from looper.serve.routing.autoscaling import EngineLoad
from tests.serve.cache.lru_caches import run, until


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Client:
    """Sends requests that run until they are told to end."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self.queue = queue
        self.admitted: list[str] = []
        self.requests: list[Request] = []  # the event loop keeps no reference to its tasks

    def send(
        self, name: str, tenant: str = "t", digest: str | None = None, tokens: int = 1, num_seqs: int = 1
    ) -> "Request":
        self.requests.append(Request(self, name, tenant, digest, tokens, num_seqs))
        return self.requests[-1]


class Request:
    def __init__(self, client: Client, name: str, tenant: str, digest: str | None, tokens: int, num_seqs: int) -> None:
        self.end = asyncio.Event()
        self.queued: QueuedRequest | None = None
        self.task = asyncio.create_task(
            self._run(client, name, client.queue.admit(tenant, digest, tokens, num_seqs=num_seqs))
        )

    async def _run(self, client: Client, name: str, admission: AbstractAsyncContextManager[QueuedRequest]) -> None:
        async with admission as self.queued:
            client.admitted.append(name)
            await self.end.wait()

    async def finish(self) -> None:
        self.end.set()
        await self.task
        await settle()


def priorities(*requests: Request) -> list[int]:
    return [request.queued.priority for request in requests if request.queued]


def test_requests_of_one_tenant_are_admitted_in_the_order_of_arrival() -> None:
    async def test() -> None:
        client = Client(AdmissionQueue(2, 8, headroom=0))
        requests = [client.send(name) for name in "abcd"]
        await settle()
        assert client.admitted == ["a", "b"]
        await requests[1].finish()
        assert client.admitted == ["a", "b", "c"]
        await requests[0].finish()
        assert client.admitted == ["a", "b", "c", "d"]

    run(test)


def test_a_tenant_that_floods_gets_no_more_than_its_share() -> None:
    async def test() -> None:
        queue = AdmissionQueue(2, 8, headroom=0)
        done: Counter[str] = Counter()
        order: list[str] = []

        async def one(tenant: str) -> None:
            async with queue.admit(tenant, None, 10) as request:
                await asyncio.sleep(0)
                queue.record_generated(request, 5)
                done[tenant] += 1
                order.append(tenant)

        await asyncio.gather(*(one("flood") for _ in range(200)), *(one("calm") for _ in range(20)))
        assert done == {"flood": 200, "calm": 20}
        while_both_wait = order[: len(order) - order[::-1].index("calm")]
        assert abs(Counter(while_both_wait)["flood"] - 20) <= 2, (
            "as many as the other tenant's, while both had requests"
        )

    run(test)


def test_a_generated_token_counts_as_two_prompt_tokens() -> None:
    async def test() -> None:
        queue = AdmissionQueue(1, 8, headroom=0)
        client = Client(queue)
        first = client.send("talks", "talks", tokens=10)
        await settle()
        for name in ("talks-2", "reads"):
            client.send(name, name.split("-")[0], tokens=10)
        await settle()
        assert first.queued is not None
        queue.record_generated(first.queued, 1)
        await first.finish()
        assert client.admitted == ["talks", "reads"], "10 + 2 against 0"

    run(test)


def test_a_tenant_that_pauses_saves_up_no_credit() -> None:
    async def test() -> None:
        queue = AdmissionQueue(1, 8, headroom=0)
        client = Client(queue)
        for number in range(5):
            await client.send(f"busy-{number}", "busy", tokens=100).finish()
        holding = client.send("busy", "busy", tokens=100)
        await settle()
        late = [client.send(f"late-{n}", "late", tokens=100) for n in range(3)]
        busy = [client.send(f"busy-{n}", "busy", tokens=100) for n in range(3)]
        await settle()
        await holding.finish()
        for _ in range(3):
            await late.pop(0).finish()
            await busy.pop(0).finish()
        assert client.admitted[-6:] == ["late-0", "busy-0", "late-1", "busy-1", "late-2", "busy-2"]

    run(test)


def test_no_more_adapters_run_than_slots_and_the_base_model_needs_none() -> None:
    async def test() -> None:
        queue = AdmissionQueue(8, 2, headroom=0)
        now: Counter[str] = Counter()
        most = 0

        async def one(digest: str | None) -> None:
            nonlocal most
            async with queue.admit("t", digest, 1):
                now[digest or "base"] += 1
                most = max(most, len([key for key in +now if key != "base"]))
                await asyncio.sleep(0)
                now[digest or "base"] -= 1

        await asyncio.gather(*(one(None if n % 5 == 0 else f"adapter {n % 7}") for n in range(300)))
        assert most == 2

    run(test)


def test_an_adapter_in_use_is_preferred_unless_another_request_has_waited_three_times_as_long() -> None:
    async def test() -> None:
        queue = AdmissionQueue(2, 2, headroom=0)
        client = Client(queue)
        hot, other = (client.send(name, digest=name) for name in ("hot", "other"))
        await settle()
        client.send("cold", digest="cold")
        await asyncio.sleep(0.02)
        again = client.send("hot", digest="hot")
        await asyncio.sleep(0.1)
        await other.finish()
        assert client.admitted == ["hot", "other", "hot"], "it has waited nearly as long, and its adapter is in use"
        client.send("hot", digest="hot")
        await asyncio.sleep(0.02)
        await again.finish()
        assert client.admitted[-1] == "cold"
        await hot.finish()

    run(test)


def test_a_tenant_with_less_than_its_share_gets_the_headroom() -> None:
    async def test() -> None:
        client = Client(AdmissionQueue(4, 2))
        flood = [client.send(f"flood-{number}", "flood", f"{number % 2}") for number in range(8)]
        await settle()
        calm = [client.send(f"calm-{number}", "calm", "another") for number in range(3)]
        await settle()
        assert client.admitted[4:] == ["calm-0", "calm-1"], "beyond the four sequences and the two slots"
        assert priorities(*flood, *calm) == [NORMAL_PRIORITY] * 4 + [HIGH_PRIORITY] * 2
        await flood[0].finish()
        assert len(client.admitted) == 6, "the headroom is not filled by a tenant with its share"
        await flood[1].finish()
        await flood[2].finish()
        assert client.admitted[6:] == ["flood-5"], (
            "its tenant has the smallest counter now, and both its adapters have slots"
        )

    run(test)


def test_no_request_has_high_priority_where_no_tenant_has_more_than_the_others() -> None:
    async def test() -> None:
        client = Client(AdmissionQueue(4, 8))
        requests = [client.send(name, tenant=name) for name in "abcdefgh"]
        await settle()
        assert len(client.admitted) == 6, "each has less than its share, and may use the headroom"
        assert set(priorities(*requests)) == {NORMAL_PRIORITY}

    run(test)


def test_a_request_with_several_sequences_counts_as_several() -> None:
    async def test() -> None:
        queue = AdmissionQueue(4, 8)
        client = Client(queue)
        many = [client.send(f"many-{number}", "many", num_seqs=3) for number in range(2)]
        few = [client.send(f"few-{number}", "few") for number in range(3)]
        await settle()
        assert client.admitted == ["many-0", "few-0", "few-1"], "one within its share of two, and one in the headroom"
        assert queue.running_seqs == 5
        load = queue.report_load()
        assert (load["running"], load["waiting"], load["rate"]) == (5, 4, 0.9), "nine have come within ten seconds"
        assert priorities(*few) == [HIGH_PRIORITY, HIGH_PRIORITY]
        for request in (*many, *few):
            await request.finish()
        assert client.admitted[3:] == ["many-1", "few-2"]
        assert (queue.waiting_requests, queue.running_seqs) == (0, 0)

    run(test)


def test_room_is_reserved_for_the_next_request_with_several_sequences() -> None:
    async def test() -> None:
        queue = AdmissionQueue(4, 8, headroom=1)
        client = Client(queue)
        flood = [client.send(f"flood-{number}", "flood") for number in range(8)]
        await settle()
        many = client.send("many", "many", num_seqs=4)
        await settle()
        assert flood[0].queued is not None
        queue.record_generated(flood[0].queued, 1)
        for request in flood[:2]:
            await request.finish()
        late = [client.send(f"late-{number}", f"late-{number}") for number in range(2)]
        await settle()
        assert client.admitted[4:] == ["late-0"], "only a tenant with less than its share gets the headroom"
        for request in flood[2:4]:
            await request.finish()
        assert client.admitted[5:] == ["many"]
        await late[0].finish()
        assert client.admitted[6:] == ["late-1"]
        await many.finish()
        assert client.admitted[7:] == ["flood-4", "flood-5", "flood-6"]

    run(test)


def test_reserved_room_is_charged_to_its_tenant() -> None:
    async def test() -> None:
        queue = AdmissionQueue(4, 8, headroom=0)
        client = Client(queue)
        flood = [client.send(f"flood-{number}", "flood", tokens=10) for number in range(5)]
        await settle()
        many = [client.send(f"many-{number}", "many", tokens=10, num_seqs=4) for number in range(2)]
        await settle()
        assert flood[3].queued is not None
        queue.record_generated(flood[3].queued, 1)
        for request in flood[:3]:
            await request.finish()
        queue.record_generated(flood[3].queued, 20)  # three more sequences could have generated as many
        await flood[3].finish()
        assert client.admitted[4:] == ["many-0"]
        await many[0].finish()
        assert client.admitted[5:] == ["flood-4"], "42 + 40 tokens against 50 + 120"

    run(test)


def test_reserved_room_is_released_when_its_request_is_canceled() -> None:
    async def test() -> None:
        queue = AdmissionQueue(2, 8, headroom=0)
        client = Client(queue)
        first = client.send("first")
        await settle()
        many = client.send("many", "many", num_seqs=2)
        await settle()
        client.send("next")
        await settle()
        assert client.admitted == ["first"]
        many.task.cancel()
        await settle()
        assert client.admitted == ["first", "next"]
        assert (queue.waiting_requests, queue.running_seqs) == (0, 2)
        await first.finish()

    run(test)


def test_a_request_for_a_cold_adapter_is_skipped_for_a_limited_time() -> None:
    async def test() -> None:
        queue = AdmissionQueue(4, 2, headroom=0, max_skip_s=0.05)
        client = Client(queue)
        busy = [client.send(f"a{n}", "hot", "a") for n in range(2)] + [client.send("b", "hot", "b")]
        await settle()
        cold = client.send("cold", "other", "cold")
        await settle()
        passing = client.send("a2", "hot", "a")
        await settle()
        assert client.admitted == ["a0", "a1", "b", "a2"], "there is room, and its adapter has a slot"
        await asyncio.sleep(0.06)
        await passing.finish()
        waits = client.send("b2", "hot", "b")
        joins = client.send("a3", "hot", "a")
        await settle()
        assert client.admitted[4:] == ["a3"], "b, the less busy adapter, is being drained"
        await busy[2].finish()
        assert client.admitted[5:] == ["cold"]
        await cold.finish()
        assert client.admitted[6:] == ["b2"]
        for request in (*busy[:2], joins, waits):
            await request.finish()
        assert (queue.waiting_requests, queue.running_seqs) == (0, 0)

    run(test)


def test_a_canceled_request_leaves_neither_the_queue_nor_the_engine_occupied() -> None:
    async def test() -> None:
        queue = AdmissionQueue(1, 1, headroom=0)
        client = Client(queue)
        serving, waiting, last = (client.send(name, name, name) for name in "abc")
        await settle()
        waiting.task.cancel()
        await settle()
        assert (queue.waiting_requests, queue.running_seqs) == (1, 1)
        serving.task.cancel()
        await settle()
        assert client.admitted == ["a", "c"]
        # Canceled in the very moment of its admission.
        another = client.send("d", "d", "d")
        await settle()
        last.end.set()
        await until(last.task.done)
        another.task.cancel()
        await settle()
        assert (queue.waiting_requests, queue.running_seqs) == (0, 0)
        # All at once.
        many = [client.send(str(number)) for number in range(5)]
        await settle()
        for request in many:
            request.task.cancel()
        results = await asyncio.gather(*(request.task for request in many), return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert (queue.waiting_requests, queue.running_seqs) == (0, 0)

    run(test)


def test_a_request_that_cannot_be_served_in_time_is_refused_immediately() -> None:
    async def test() -> None:
        queue = AdmissionQueue(1, 1, headroom=0)
        client = Client(queue)
        first = client.send("a")
        await asyncio.sleep(0.1)
        await first.finish()
        client.send("b")
        await settle()
        async with AsyncExitStack() as stack:
            with pytest.raises(Overloaded, match=r"would begin in 0\.1 s") as refused:
                await stack.enter_async_context(queue.admit("t", None, 1, max_wait_s=0.05))
        assert 0.02 < refused.value.retry_after_s < 0.2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), queue.admit("t", None, 1, max_wait_s=5):
                raise AssertionError("unreachable: there is no room")

    run(test)


def test_the_queue_is_bounded() -> None:
    async def test() -> None:
        queue = AdmissionQueue(1, 1, max_waiting=2)
        client = Client(queue)
        for name in "abc":
            client.send(name)
        await settle()
        with pytest.raises(Overloaded, match="2 requests wait"):
            async with queue.admit("t", None, 1):
                raise AssertionError("unreachable")

    run(test)


def test_the_reported_load_is_what_autoscaling_reads() -> None:
    async def test() -> dict[str, float]:
        return AdmissionQueue(2, 8).report_load()

    load = asyncio.run(test())
    assert load.keys() == {field.name for field in fields(EngineLoad)}
