"""How much an outcome says."""

import json
from pathlib import Path

import pytest

from looper.jobs.synthesis.draft import Draft, Grade
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.grade import WEIGHTS, choose, grade
from looper.platform.trajectories.ingest import read_path
from tests.jobs.synthesis.play import call, draft

DATA = Path(__file__).parents[5] / "shared" / "data"
DONE = (call("book", room="7"), "booked", "done")
LOOKED = (call("get_room", room="7"), "{}", "It is free.")


def graded(*steps: object, **more: object) -> Draft:
    return grade(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def test_without_checks_deeds_count() -> None:
    assert graded(*DONE).grade is Grade.VERIFIED
    assert graded(*LOOKED).grade is Grade.STATED
    assert graded(call("book", room="7"), "Error: room 7 not found", "Sorry.").grade is Grade.STATED


@pytest.mark.parametrize(
    ("gold", "outputs", "expected"),
    [
        (["book_reservation"], [], Grade.VERIFIED),
        (["get_reservation_details"], [], Grade.VACUOUS),
        ([], ["42"], Grade.STATED),
        (["transfer_to_human_agents"], [], Grade.VACUOUS),
    ],
)
def test_gold_actions_that_write_nothing_verify_nothing(gold: list[str], outputs: list[str], expected: Grade) -> None:
    info = {"reward_info": {"actions": [{"name": name} for name in gold], "info": {"outputs": outputs}}}
    assert graded(*DONE, detail=json.dumps(info)).grade is expected


def test_a_reward_for_what_was_said_is_stated() -> None:
    def of(basis: list[str], steps: tuple[object, ...]) -> Grade | None:
        return graded(*steps, detail=json.dumps({"reward_basis": basis})).grade

    assert of(["COMMUNICATE"], DONE) is Grade.STATED
    assert of(["DB", "COMMUNICATE"], DONE) is Grade.VERIFIED
    assert of(["DB"], LOOKED) is Grade.VACUOUS


def test_failures_leave_and_broken_tools_are_named() -> None:
    assert graded(*DONE, success=False).rejected == "failed"
    broken = graded(call("book", room="7"), "Internal server error", "Sorry.", success=False)
    assert (broken.grade, broken.rejected) == (Grade.ENVIRONMENT, "environment")


def test_unlabelled_episodes_are_kept_only_among_their_like() -> None:
    assert graded(*DONE, success=None, labelled=True).rejected == "unlabelled"
    alone = graded(*DONE, success=None, labelled=False)
    assert (alone.rejected, alone.weight) == (None, WEIGHTS[Grade.UNLABELLED])


def test_labels_alone_choose_without_grades() -> None:
    assert choose(draft(*DONE)).rejected is None
    assert choose(draft(*DONE, success=False)).rejected == "failed"
    assert choose(draft(*DONE, success=None)).rejected == "unlabelled"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real trajectories are not here")
def test_of_84_airline_successes_57_wrote_nothing() -> None:
    ((_, batch),) = read_path(DATA / "tau-bench" / "gpt-4o-airline.json")
    grades = [grade(classify_errors(Draft.of(one, labelled=True))).grade for one in batch]
    assert grades.count(Grade.VERIFIED) == 27
    assert grades.count(Grade.VACUOUS) + grades.count(Grade.STATED) == 57
