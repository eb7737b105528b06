"""Detours leave, or stay as context."""

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.prune import prune
from tests.jobs.synthesis.play import call, draft

LOOK = (call("get_room", room="7"), "free")
BOOK = (call("book", room="7"), "booked")


def pruned(*steps: object, **more: object) -> Draft:
    return prune(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def made(of: Draft) -> list[tuple[str, float]]:
    return [(each.step.tool_calls[0].name, each.weight) for each in of.steps if each.step.tool_calls]


def verdicts(of: Draft) -> list[tuple[str, int | None]]:
    return [(verdict.what, verdict.step) for verdict in of.verdicts if verdict.stage == "prune"]


def test_the_same_call_twice_is_made_once() -> None:
    once = pruned(*LOOK, *LOOK, *BOOK, "done")
    assert made(once) == [("get_room", 1), ("book", 1)]
    assert verdicts(once) == [("repeated_call", 4)]


def test_a_loop_that_was_left_is_cut_at_its_onset() -> None:
    for loop in (LOOK * 4, (*LOOK, call("get_list"), "1") * 3):
        left = pruned(*loop, *BOOK, "done")
        assert len(made(left)) == len(set(loop[::2])) + 1 if isinstance(loop[0], str) else True
        assert [what for what, _ in verdicts(left)] == ["loop"]
        assert all(weight == 1 for _, weight in made(left))


def test_a_loop_in_which_an_episode_ends_is_not_learned() -> None:
    assert made(pruned(*BOOK, *(LOOK * 5), success=False)) == [("book", 1), ("get_room", 0)]


def test_what_is_no_loop_stays() -> None:
    polls = [call("status"), "queued", call("status"), "running", call("status"), "done"]
    retries = [BOOK[0], "E_TIMEOUT", BOOK[0], "E_TIMEOUT", *BOOK]
    for steps in (polls, retries, [*LOOK, *BOOK, *LOOK]):
        assert verdicts(pruned(*steps, "done")) == []


def test_calls_that_met_a_broken_tool_leave_with_the_answer() -> None:
    left = pruned(call("page"), "Internal server error", *BOOK, "done")
    assert made(left) == [("book", 1)]
    assert [each.step.source for each in left.steps] == ["system", "user", "agent", "tool", "agent"]
    assert verdicts(left) == [("environment_bug", 3)]


def test_a_way_that_led_nowhere_is_context() -> None:
    back = pruned(*LOOK, call("book", room="99"), "Error: room not found", *LOOK, *BOOK, "done")
    assert made(back) == [("get_room", 1), ("book", 0), ("get_room", 0), ("book", 1)]
    assert verdicts(back) == [("backtrack", 4)]
