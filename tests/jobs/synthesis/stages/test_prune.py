"""Detours are removed or kept only as context."""

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.prune import prune
from tests.jobs.synthesis.play import call, draft

LOOK = (call("get_room", room="7"), "free")
BOOK = (call("book", room="7"), "booked")


def pruned(*steps: object, **more: object) -> Draft:
    return prune(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def called_tools(draft: Draft) -> list[tuple[str, float]]:
    return [(step.step.tool_calls[0].name, step.weight) for step in draft.steps if step.step.tool_calls]


def verdicts(draft: Draft) -> list[tuple[str, int | None]]:
    return [(verdict.code, verdict.step) for verdict in draft.verdicts if verdict.stage == "prune"]


def test_a_repeated_call_is_kept_once() -> None:
    once = pruned(*LOOK, *LOOK, *BOOK, "done")
    assert called_tools(once) == [("get_room", 1), ("book", 1)]
    assert verdicts(once) == [("repeated_call", 4)]


def test_a_loop_that_the_agent_left_is_cut_at_its_start() -> None:
    for loop in (LOOK * 4, (*LOOK, call("get_list"), "1") * 3):
        left = pruned(*loop, *BOOK, "done")
        assert len(called_tools(left)) == len(set(loop[::2])) + 1 if isinstance(loop[0], str) else True
        assert [what for what, _ in verdicts(left)] == ["loop"]
        assert all(weight == 1 for _, weight in called_tools(left))


def test_a_loop_at_the_end_of_an_episode_is_not_learned() -> None:
    assert called_tools(pruned(*BOOK, *(LOOK * 5), success=False)) == [("book", 1), ("get_room", 0)]


def test_polling_and_retries_are_kept() -> None:
    polls = [call("status"), "queued", call("status"), "running", call("status"), "done"]
    retries = [BOOK[0], "E_TIMEOUT", BOOK[0], "E_TIMEOUT", *BOOK]
    for steps in (polls, retries, [*LOOK, *BOOK, *LOOK]):
        assert verdicts(pruned(*steps, "done")) == []


def test_calls_of_a_broken_tool_are_removed_with_their_results() -> None:
    left = pruned(call("page"), "Internal server error", *BOOK, "done")
    assert called_tools(left) == [("book", 1)]
    assert [step.step.source for step in left.steps] == ["system", "user", "agent", "tool", "agent"]
    assert verdicts(left) == [("environment_bug", 3)]


def test_a_dead_end_is_kept_as_context() -> None:
    back = pruned(*LOOK, call("book", room="99"), "Error: room not found", *LOOK, *BOOK, "done")
    assert called_tools(back) == [("get_room", 1), ("book", 0), ("get_room", 0), ("book", 1)]
    assert verdicts(back) == [("backtrack", 4)]
