"""What counts as missed, and when all is as before."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.faults.measure import FaultResult, Lines, Window, is_quiet, measure
from tests.cluster.faults.report import ClusterResults, Run

HURT, WELL = "198.51.100.11:8000", "198.51.100.12:8000"


def attempt(at: float, address: str, outcome: str = "right", *, took: float = 0.5, reason: str = "") -> dict[str, Any]:
    return {"kind": "attempt", "at": at, "took": took, "address": address, "outcome": outcome, "reason": reason}


def address(at: float, name: str, *, up: bool = True) -> dict[str, Any]:
    return {"kind": "address", "at": at, "address": name, "up": up}


def request(at: float, outcome: str = "right", took: float = 2.0) -> dict[str, Any]:
    return {"kind": "request", "at": at, "took": took, "outcome": outcome}


UP = [address(0, HURT), address(0, WELL)]


def sum_up(events: list[dict[str, Any]], recovered: float | None = 130) -> FaultResult:
    return measure(Window("stop", [HURT], 100, 120, recovered, 250), events)


def test_what_is_lost_at_the_hurt_node_or_refused_for_now_is_no_miss() -> None:
    events = [
        attempt(99.8, HURT, "lost", reason="ReadError"),
        attempt(110, WELL, "refused", reason="503 engine_gone"),
        attempt(119, WELL, took=20),
        attempt(90, WELL, "wrong"),  # before
        attempt(249, WELL, "wrong", took=2),  # of the next fault
        request(99),
    ]
    result = sum_up(events)
    assert result.missed == []
    assert result.attempts == {"lost ReadError": 1, "refused 503 engine_gone": 1, "right": 1}
    assert (result.requests, result.slowest_attempt_s, result.fault_s, result.recovered_s) == (1, 20, 20, 10)


def test_what_fails_after_all_looked_as_before_counts() -> None:
    late = attempt(128, WELL, "refused", took=10, reason="503 engine_gone")
    assert sum_up([late]).recovered_s == 18
    assert sum_up([late], 200).recovered_s == 80
    assert sum_up([address(140, HURT)]).recovered_s == 20


def test_every_kind_of_miss_is_said() -> None:
    events = [
        attempt(110, WELL, "lost", reason="ReadError"),
        attempt(110, WELL, "unclean", reason="500"),
        attempt(110, HURT, "wrong"),
        attempt(110, WELL, "hung", took=75, reason="ReadTimeout"),
        request(110, "given up"),
    ]
    assert sum_up(events, None).missed == [
        "1 unclean 500",
        "1 wrong",
        "1 hung ReadTimeout",
        f"1 lost at {WELL}, which was well",
        "1 given up",
        "an attempt took 75 s",
        "not as before within 60 s",
    ]


def test_all_is_as_before_once_every_address_has_answered_everything_for_a_while() -> None:
    answers = [attempt(96, HURT), attempt(97, WELL)]
    assert is_quiet([*UP, *answers], 100, [HURT, WELL])
    assert not is_quiet([*UP, *answers], 103, [HURT, WELL]), "nobody has asked since"
    assert not is_quiet([*UP, answers[0]], 100, [HURT, WELL]), "one address has not answered"
    assert not is_quiet([*UP, *answers, attempt(95, WELL, "refused")], 100, [HURT, WELL])
    assert is_quiet([*UP, *answers, attempt(94, WELL, "refused")], 100, [HURT, WELL])
    assert not is_quiet([*UP, *answers, address(99, HURT, up=False)], 100, [HURT, WELL])


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path, lines = tmp_path / "out", Lines(tmp_path / "out")
    path.write_text(json.dumps(UP[0]) + "\n" + json.dumps(UP[1])[:9])
    assert lines.read() == UP[:1]
    path.write_text("".join(json.dumps(event) + "\n" for event in UP))
    assert lines.read() == UP


def test_a_new_run_of_a_fault_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    def run(*faults: str, **consolidations: int) -> Run:
        found = [sum_up([attempt(110, WELL)]).model_copy(update={"fault": fault}) for fault in faults]
        return Run(machine="two cores", commit="abc", faults=found, consolidations=consolidations)

    results = ClusterResults()
    results.add(run("stop", "drain", submitted=4, published=3, rejected=1, doubled=0))
    results.add(run("stop", submitted=2, published=1, doubled=1))
    results.write(tmp_path)
    read = ClusterResults.load(tmp_path)
    assert [[fault.fault for fault in each.faults] for each in read.runs] == [["drain"], ["stop"]]
    assert read.runs[0].find_misses() == []
    assert len(read.runs[1].find_misses()) == 2, "one consolidation is lost, and one instance has two versions"
    assert sum_up([attempt(110, WELL)], 181).missed == ["not as before within 60 s"]
    page = (tmp_path / "cluster.md").read_text()
    assert page.count("| stop |") == page.count("| drain |") == 1
