"""The grade tells how reliable a success is."""

import json
from pathlib import Path

import pytest

from looper.jobs.synthesis.draft import Draft, Grade
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.jobs.synthesis.stages.grade import GRADE_WEIGHTS, grade, select_by_label
from looper.platform.trajectories.ingest import read_path
from tests.jobs.synthesis.play import call, draft

DATA = Path(__file__).parents[5] / "shared" / "data"
DONE = (call("book", room="7"), "booked", "done")
LOOKED = (call("get_room", room="7"), "{}", "It is free.")


def graded(*steps: object, **more: object) -> Draft:
    return grade(classify_errors(draft(*steps, **more)))  # type: ignore[arg-type]


def test_without_checks_of_the_source_the_actions_decide() -> None:
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
def test_gold_actions_without_writes_verify_nothing(gold: list[str], outputs: list[str], expected: Grade) -> None:
    info = {"reward_info": {"actions": [{"name": name} for name in gold], "info": {"outputs": outputs}}}
    assert graded(*DONE, detail=json.dumps(info)).grade is expected


def test_a_reward_for_communication_only_is_stated() -> None:
    def grade_for(basis: list[str], steps: tuple[object, ...]) -> Grade | None:
        return graded(*steps, detail=json.dumps({"reward_basis": basis})).grade

    assert grade_for(["COMMUNICATE"], DONE) is Grade.STATED
    assert grade_for(["DB", "COMMUNICATE"], DONE) is Grade.VERIFIED
    assert grade_for(["DB"], LOOKED) is Grade.VACUOUS


def test_failures_are_rejected_and_broken_tools_are_named() -> None:
    assert graded(*DONE, success=False).rejected == "failed"
    broken = graded(call("book", room="7"), "Internal server error", "Sorry.", success=False)
    assert (broken.grade, broken.rejected) == (Grade.ENVIRONMENT, "environment")


def test_unlabeled_episodes_are_kept_only_if_the_source_has_no_labels() -> None:
    assert graded(*DONE, success=None, has_labels=True).rejected == "unlabelled"
    alone = graded(*DONE, success=None, has_labels=False)
    assert (alone.rejected, alone.weight) == (None, GRADE_WEIGHTS[Grade.UNLABELED])


def test_select_by_label_uses_the_label_alone() -> None:
    assert select_by_label(draft(*DONE)).rejected is None
    assert select_by_label(draft(*DONE, success=False)).rejected == "failed"
    assert select_by_label(draft(*DONE, success=None)).rejected == "unlabelled"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real trajectories are not here")
def test_of_84_airline_successes_57_wrote_nothing() -> None:
    ((_, batch),) = read_path(DATA / "tau-bench" / "gpt-4o-airline.json")
    grades = [grade(classify_errors(Draft.from_trajectory(one, has_labels=True))).grade for one in batch]
    assert grades.count(Grade.VERIFIED) == 27
    assert grades.count(Grade.VACUOUS) + grades.count(Grade.STATED) == 57
