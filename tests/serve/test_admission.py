"""The queue before an engine, with requests that last for one or a few ticks of the event loop."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from looper.platform.domain.errors import Overloaded
from looper.serve.admission import Admission, Turn
from tests.serve.shelves import run, until


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Client:
    """Requests that hold their seat until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.served: list[str] = []
        self.asked: list[Asked] = []  # a loop does not keep its tasks

    def ask(self, name: str, tenant: str = "t", digest: str | None = None, tokens: int = 1, seats: int = 1) -> "Asked":
        self.asked.append(Asked(self, name, tenant, digest, tokens, seats))
        return self.asked[-1]


class Asked:
    def __init__(self, client: Client, name: str, tenant: str, digest: str | None, tokens: int, seats: int) -> None:
        self.end = asyncio.Event()
        self.turn: Turn | None = None
        self.task = asyncio.create_task(
            self._live(client, name, client.admission.turn(tenant, digest, tokens, seats=seats))
        )

    async def _live(self, client: Client, name: str, turn: AbstractAsyncContextManager[Turn]) -> None:
        async with turn as self.turn:
            client.served.append(name)
            await self.end.wait()

    async def finish(self) -> None:
        self.end.set()
        await self.task
        await settle()


def test_seats_are_taken_in_the_order_of_coming_by_one_tenant() -> None:
    async def test() -> None:
        client = Client(Admission(2, 8, spare=0))
        asked = [client.ask(name) for name in "abcd"]
        await settle()
        assert client.served == ["a", "b"]
        await asked[1].finish()
        assert client.served == ["a", "b", "c"]
        await asked[0].finish()
        assert client.served == ["a", "b", "c", "d"]

    run(test)


def test_a_tenant_that_floods_gets_no_more_than_its_share() -> None:
    async def test() -> None:
        admission = Admission(2, 8, spare=0)
        done: Counter[str] = Counter()
        order: list[str] = []

        async def one(tenant: str) -> None:
            async with admission.turn(tenant, None, 10) as turn:
                await asyncio.sleep(0)
                admission.generated(turn, 5)
                done[tenant] += 1
                order.append(tenant)

        await asyncio.gather(*(one("flood") for _ in range(200)), *(one("calm") for _ in range(20)))
        assert done == {"flood": 200, "calm": 20}
        while_both = order[: len(order) - order[::-1].index("calm")]
        assert abs(Counter(while_both)["flood"] - 20) <= 2, "as many as the other's, while both asked"

    run(test)


def test_what_was_generated_counts_twice_what_was_read() -> None:
    async def test() -> None:
        admission = Admission(1, 8, spare=0)
        client = Client(admission)
        first = client.ask("talks", "talks", tokens=10)
        await settle()
        for name in ("talks-2", "reads"):
            client.ask(name, name.split("-")[0], tokens=10)
        await settle()
        assert first.turn is not None
        admission.generated(first.turn, 1)
        await first.finish()
        assert client.served == ["talks", "reads"], "10 + 2 against 0"

    run(test)


def test_one_that_pauses_saves_nothing_up() -> None:
    async def test() -> None:
        admission = Admission(1, 8, spare=0)
        client = Client(admission)
        for number in range(5):
            await client.ask(f"busy-{number}", "busy", tokens=100).finish()
        holding = client.ask("busy", "busy", tokens=100)
        await settle()
        late = [client.ask(f"late-{n}", "late", tokens=100) for n in range(3)]
        busy = [client.ask(f"busy-{n}", "busy", tokens=100) for n in range(3)]
        await settle()
        await holding.finish()
        for _ in range(3):
            await late.pop(0).finish()
            await busy.pop(0).finish()
        assert client.served[-6:] == ["late-0", "busy-0", "late-1", "busy-1", "late-2", "busy-2"]

    run(test)


def test_there_are_never_more_adapters_than_slots_and_the_base_needs_none() -> None:
    async def test() -> None:
        admission = Admission(8, 2, spare=0)
        now: Counter[str] = Counter()
        most = 0

        async def one(digest: str | None) -> None:
            nonlocal most
            async with admission.turn("t", digest, 1):
                now[digest or "base"] += 1
                most = max(most, len([key for key in +now if key != "base"]))
                await asyncio.sleep(0)
                now[digest or "base"] -= 1

        await asyncio.gather(*(one(None if n % 5 == 0 else f"adapter {n % 7}") for n in range(300)))
        assert most == 2

    run(test)


def test_who_has_company_goes_first_unless_another_has_waited_three_times_as_long() -> None:
    async def test() -> None:
        admission = Admission(2, 2, spare=0)
        client = Client(admission)
        hot, other = (client.ask(name, digest=name) for name in ("hot", "other"))
        await settle()
        client.ask("cold", digest="cold")
        await asyncio.sleep(0.02)
        again = client.ask("hot", digest="hot")
        await asyncio.sleep(0.1)
        await other.finish()
        assert client.served == ["hot", "other", "hot"], "it has waited nearly as long"
        client.ask("hot", digest="hot")
        await asyncio.sleep(0.02)
        await again.finish()
        assert client.served[-1] == "cold"
        await hot.finish()

    run(test)


def test_who_has_less_than_its_share_need_not_wait_for_those_who_came_together() -> None:
    async def test() -> None:
        client = Client(Admission(4, 2))
        flood = [client.ask(f"flood-{number}", "flood", f"{number % 2}") for number in range(8)]
        await settle()
        calm = [client.ask(f"calm-{number}", "calm", "another") for number in range(3)]
        await settle()
        assert client.served[4:] == ["calm-0", "calm-1"], "beyond the four seats and the two slots"
        assert [each.turn.ahead for each in (*flood, *calm) if each.turn] == [False] * 4 + [True] * 2
        await flood[0].finish()
        assert len(client.served) == 6, "the spare seats are nobody's"
        await flood[1].finish()
        await flood[2].finish()
        assert client.served[6:] == ["flood-5"], "it is the least served now, and both its adapters have their slots"

    run(test)


def test_nobody_is_ahead_where_nobody_has_more_than_others() -> None:
    async def test() -> None:
        client = Client(Admission(4, 8))
        asked = [client.ask(name, tenant=name) for name in "abcdefgh"]
        await settle()
        assert len(client.served) == 6, "each has less than its share, and may take a spare seat"
        assert not any(each.turn.ahead for each in asked if each.turn)

    run(test)


def test_a_request_of_many_sequences_takes_as_many_seats() -> None:
    async def test() -> None:
        admission = Admission(4, 8)
        client = Client(admission)
        many = [client.ask(f"many-{number}", "many", seats=3) for number in range(2)]
        few = [client.ask(f"few-{number}", "few") for number in range(3)]
        await settle()
        assert client.served == ["many-0", "few-0", "few-1"], "of its share of two, and one is spare"
        assert admission.serving == 5
        assert admission.report()["asked"] == 9
        assert [each.turn.ahead for each in few if each.turn] == [True, True]
        for each in (*many, *few):
            await each.finish()
        assert client.served[3:] == ["many-1", "few-2"]
        assert (admission.waiting, admission.serving) == (0, 0)

    run(test)


def test_seats_are_kept_free_for_a_request_of_many_whose_turn_it_is() -> None:
    async def test() -> None:
        admission = Admission(4, 8, spare=1)
        client = Client(admission)
        flood = [client.ask(f"flood-{number}", "flood") for number in range(8)]
        await settle()
        many = client.ask("many", "many", seats=4)
        await settle()
        assert flood[0].turn is not None
        admission.generated(flood[0].turn, 1)
        for each in flood[:2]:
            await each.finish()
        late = [client.ask(f"late-{number}", f"late-{number}") for number in range(2)]
        await settle()
        assert client.served[4:] == ["late-0"], "the spare seat is for who has less than its share, and nobody else"
        for each in flood[2:4]:
            await each.finish()
        assert client.served[5:] == ["many"]
        await late[0].finish()
        assert client.served[6:] == ["late-1"]
        await many.finish()
        assert client.served[7:] == ["flood-4", "flood-5", "flood-6"]

    run(test)


def test_seats_that_are_kept_free_are_paid_for() -> None:
    async def test() -> None:
        admission = Admission(4, 8, spare=0)
        client = Client(admission)
        flood = [client.ask(f"flood-{number}", "flood", tokens=10) for number in range(5)]
        await settle()
        many = [client.ask(f"many-{number}", "many", tokens=10, seats=4) for number in range(2)]
        await settle()
        assert flood[3].turn is not None
        admission.generated(flood[3].turn, 1)
        for each in flood[:3]:
            await each.finish()
        admission.generated(flood[3].turn, 20)  # three times as many could have been
        await flood[3].finish()
        assert client.served[4:] == ["many-0"]
        await many[0].finish()
        assert client.served[5:] == ["flood-4"], "42 + 40 tokens against 50 + 120"

    run(test)


def test_one_who_gives_up_while_seats_are_kept_free_for_it_leaves_them_to_others() -> None:
    async def test() -> None:
        admission = Admission(2, 8, spare=0)
        client = Client(admission)
        first = client.ask("first")
        await settle()
        many = client.ask("many", "many", seats=2)
        await settle()
        client.ask("next")
        await settle()
        assert client.served == ["first"]
        many.task.cancel()
        await settle()
        assert client.served == ["first", "next"]
        assert (admission.waiting, admission.serving) == (0, 2)
        await first.finish()

    run(test)


def test_a_cold_adapter_is_passed_over_for_a_while_only() -> None:
    async def test() -> None:
        admission = Admission(4, 2, spare=0, patience_s=0.05)
        client = Client(admission)
        busy = [client.ask(f"a{n}", "hot", "a") for n in range(2)] + [client.ask("b", "hot", "b")]
        await settle()
        cold = client.ask("cold", "other", "cold")
        await settle()
        passing = client.ask("a2", "hot", "a")
        await settle()
        assert client.served == ["a0", "a1", "b", "a2"], "there is a seat, and its adapter has a slot"
        await asyncio.sleep(0.06)
        await passing.finish()
        waits = client.ask("b2", "hot", "b")
        joins = client.ask("a3", "hot", "a")
        await settle()
        assert client.served[4:] == ["a3"], "b, the less busy, is being closed"
        await busy[2].finish()
        assert client.served[5:] == ["cold"]
        await cold.finish()
        assert client.served[6:] == ["b2"]
        for each in (*busy[:2], joins, waits):
            await each.finish()
        assert (admission.waiting, admission.serving) == (0, 0)

    run(test)


def test_one_who_gives_up_leaves_neither_a_seat_taken_nor_a_place_in_the_queue() -> None:
    async def test() -> None:
        admission = Admission(1, 1, spare=0)
        client = Client(admission)
        serving, waiting, last = (client.ask(name, name, name) for name in "abc")
        await settle()
        waiting.task.cancel()
        await settle()
        assert (admission.waiting, admission.serving) == (1, 1)
        serving.task.cancel()
        await settle()
        assert client.served == ["a", "c"]
        # Cancelled in the very moment in which its turn comes.
        another = client.ask("d", "d", "d")
        await settle()
        last.end.set()
        await until(last.task.done)
        another.task.cancel()
        await settle()
        assert (admission.waiting, admission.serving) == (0, 0)
        # All at once.
        many = [client.ask(str(number)) for number in range(5)]
        await settle()
        for each in many:
            each.task.cancel()
        gone = await asyncio.gather(*(each.task for each in many), return_exceptions=True)
        assert {type(each) for each in gone} == {asyncio.CancelledError}
        assert (admission.waiting, admission.serving) == (0, 0)

    run(test)


def test_what_cannot_be_served_in_time_is_refused_at_once() -> None:
    async def test() -> None:
        admission = Admission(1, 1, spare=0)
        client = Client(admission)
        first = client.ask("a")
        await asyncio.sleep(0.1)
        await first.finish()
        client.ask("b")
        await settle()
        async with AsyncExitStack() as stack:
            with pytest.raises(Overloaded, match=r"0\.1 s until the answer begins") as refused:
                await stack.enter_async_context(admission.turn("t", None, 1, within_s=0.05))
        assert 0.02 < refused.value.retry_after_s < 0.2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), admission.turn("t", None, 1, within_s=5):
                raise AssertionError("unreachable: there is no seat")

    run(test)


def test_a_queue_is_bounded() -> None:
    async def test() -> None:
        admission = Admission(1, 1, queue=2)
        client = Client(admission)
        for name in "abc":
            client.ask(name)
        await settle()
        with pytest.raises(Overloaded, match="2 requests wait"):
            async with admission.turn("t", None, 1):
                raise AssertionError("unreachable")

    run(test)
