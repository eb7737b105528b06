"""Errors are classified by their wording, by what the agent was told, and by its later calls."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from looper.jobs.synthesis.draft import Draft, ErrorKind
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.platform.trajectories.ingest import read_path
from tests.jobs.synthesis.play import call, draft

DATA = Path(__file__).parents[5] / "shared" / "data"
BOOK = call("book", room="7")


def error_kinds(*steps: object, **more: object) -> list[ErrorKind | None]:
    classified = classify_errors(draft(*steps, **more))  # type: ignore[arg-type]
    return [step.error for step in classified.steps if step.step.source == "tool"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("booked", None),
        ('{"status": "ok", "errors": []}', None),
        ("errors: none", None),
        ("Checked: no errors found.", None),
        ("The error log of last week was archived, 12 entries, all of them settled by the night shift.", None),
        ("E_TIMEOUT", ErrorKind.TRANSIENT),
        ("429 Too Many Requests", ErrorKind.TRANSIENT),
        ('{"error": "service unavailable"}', ErrorKind.TRANSIENT),
        ("Error: 'NoneType' object has no attribute 'get'", ErrorKind.ENVIRONMENT),
        ("Error: 'method'", ErrorKind.ENVIRONMENT),
        ("Error: book() got an unexpected keyword argument 'room'", ErrorKind.CAUSAL),
        ("Error: 1 validation error for Booking", ErrorKind.CAUSAL),
        ("Error: room 7 not found", ErrorKind.INFORMATIVE),
        ("Error: room 7 is already booked", ErrorKind.INFORMATIVE),
    ],
)
def test_the_wording_decides_most_errors(answer: str, kind: ErrorKind | None) -> None:
    assert error_kinds(BOOK, answer, "done") == [kind]


def test_an_error_about_a_made_up_value_is_causal() -> None:
    assert error_kinds(call("book", room="99"), "Error: room not found", "done") == [ErrorKind.CAUSAL]
    assert error_kinds(call("book", room_id="the large one"), "Error: room not found", "done") == [ErrorKind.CAUSAL]


def test_a_refusal_that_a_tool_result_foretold_is_causal() -> None:
    shown = (call("get_room", room_id="71"), '{"room_id": "71", "status": "booked"}')
    refused = (call("book", room_id="71"), "Error: non-pending room cannot be booked", "done")
    assert error_kinds(*shown, *refused, request="Book 71.") == [None, ErrorKind.CAUSAL]
    assert error_kinds(*refused, request="Book 71.") == [ErrorKind.INFORMATIVE]


def test_a_refusal_is_causal_if_the_agent_looks_up_the_reason_afterwards() -> None:
    refused = (call("book", room_id="7101"), "Error: room 7101 is not available")
    looked = (call("get_room", room_id="7101"), '{"room_id": "7101", "available": false}')
    assert error_kinds(*refused, *looked, "no", request="Book 7101.")[0] is ErrorKind.CAUSAL
    assert error_kinds(*refused, "no", request="Book 7101.")[0] is ErrorKind.INFORMATIVE


def test_a_short_number_counts_as_mentioned_only_with_its_prefix() -> None:
    missing = "Error: room R-001 not found"
    assert error_kinds(call("get_room", room_id="R-001"), missing, request="For user U001.") == [ErrorKind.CAUSAL]
    assert error_kinds(call("get_room", room_id="R-001"), missing, request="The room is R 001.") == [
        ErrorKind.INFORMATIVE
    ]


def test_a_word_such_as_unknown_is_a_made_up_value() -> None:
    assert error_kinds(call("book", room="7", method="unknown"), "Error: room 7 is already booked") == [
        ErrorKind.CAUSAL
    ]


def test_later_calls_decide_where_the_wording_does_not() -> None:
    assert (
        error_kinds(BOOK, "E_LOCKED", call("unlock", room="7"), "unlocked", BOOK, "booked")[0] is ErrorKind.INFORMATIVE
    )
    assert error_kinds(BOOK, "E_17", call("book", room="R7"), "booked")[0] is ErrorKind.CAUSAL


def test_a_record_that_is_found_under_another_spelling_was_misspelled() -> None:
    missing = (call("open", ref="5935"), "E_UNKNOWN")
    assert error_kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship 5935.")[0] is ErrorKind.CAUSAL
    assert (
        error_kinds(*missing, call("open", ref="HD-5936"), "opened", request="Ship 5935.")[0] is ErrorKind.INFORMATIVE
    )
    told = (call("list"), "HD-5935, HD-7100")
    assert (
        error_kinds(*missing, *told, call("open", ref="HD-5935"), "opened", request="Ship 5935.")[0]
        is ErrorKind.INFORMATIVE
    )
    assert error_kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship HD-5935.")[0] is ErrorKind.CAUSAL
    assert (
        error_kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship 5935 or HD-5935.")[0]
        is ErrorKind.INFORMATIVE
    )


def test_a_tool_bug_that_other_arguments_avoid_is_causal() -> None:
    bug = "Error: '<' not supported between instances of 'int' and 'str'"
    assert error_kinds(call("book", n="5"), bug, call("book", n=5), "booked")[0] is ErrorKind.CAUSAL
    assert error_kinds(call("book", n="5"), bug, call("book", n="five"), bug) == [ErrorKind.ENVIRONMENT] * 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("total 12\n-rw-r--r-- errors.txt", None),
        ("bash: frob: command not found", ErrorKind.CAUSAL),
        ("Traceback (most recent call last):\n  ...\nValueError: the bug", ErrorKind.INFORMATIVE),
        ("Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module named 'x'", ErrorKind.ENVIRONMENT),
        ("3 failed, 2 passed", ErrorKind.INFORMATIVE),
        ("one done\nError with two: it has no end\nthree done", ErrorKind.INFORMATIVE),
        ("23:def find(name):\n24:    Raises an error if not found", None),
    ],
)
def test_errors_of_a_shell_are_mostly_informative(answer: str, kind: ErrorKind | None) -> None:
    assert error_kinds(call("bash", command="make test"), answer, "done") == [kind]


def agreement_by_class(sample: str) -> dict[str, Counter[bool]]:
    """Count for each class how many labels of a sample the rules agree with."""
    drafts: dict[str, Draft] = {}
    agreed: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    with Path(__file__).with_name(sample).open() as lines:
        for row in csv.DictReader(lines):
            if row["trajectory"] not in drafts:
                read = (one for _, batch in read_path(DATA / row["file"]) for one in batch)
                drafts |= {one.id: classify_errors(Draft.from_trajectory(one, has_labels=True)) for one in read}
            error = drafts[row["trajectory"]].steps[int(row["step"])].error
            agreed[row["class"]][(error or "ok") == row["class"]] += 1
    return agreed


@pytest.mark.skipif(not DATA.is_dir(), reason="the real trajectories are not here")
def test_the_rules_agree_with_human_labels_on_real_data() -> None:
    """The third sample measures the rules independently.

    The rules were written with the first two samples at hand. The third was drawn and labeled after that, before
    anybody saw a result of the rules on it, and led to no change.
    """
    total: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for sample in ("labels.csv", "labels_second.csv", "labels_third.csv"):
        for kind, counts in agreement_by_class(sample).items():
            total[kind] += counts
            if counts.total() >= 10:
                assert counts[True] >= 0.9 * counts.total(), (sample, kind, counts)
    for kind, counts in total.items():
        assert counts.total() >= 10, kind
        assert counts[True] >= 0.9 * counts.total(), (kind, counts)
