"""Which answers are errors, and whose fault: by words, by what was known, by what came next; and on real data."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from looper.jobs.synthesis.draft import Draft, Error
from looper.jobs.synthesis.stages.classify_errors import classify_errors
from looper.platform.trajectories.ingest import read_path
from tests.jobs.synthesis.play import call, draft

DATA = Path(__file__).parents[5] / "shared" / "data"
BOOK = call("book", room="7")


def kinds(*steps: object, **more: object) -> list[Error | None]:
    found = classify_errors(draft(*steps, **more))  # type: ignore[arg-type]
    return [each.error for each in found.steps if each.step.source == "tool"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("booked", None),
        ('{"status": "ok", "errors": []}', None),
        ("errors: none", None),
        ("Checked: no errors found.", None),
        ("The error log of last week was archived, 12 entries, all of them settled by the night shift.", None),
        ("E_TIMEOUT", Error.TRANSIENT),
        ("429 Too Many Requests", Error.TRANSIENT),
        ('{"error": "service unavailable"}', Error.TRANSIENT),
        ("Error: 'NoneType' object has no attribute 'get'", Error.ENVIRONMENT),
        ("Error: 'method'", Error.ENVIRONMENT),
        ("Error: book() got an unexpected keyword argument 'room'", Error.CAUSAL),
        ("Error: 1 validation error for Booking", Error.CAUSAL),
        ("Error: room 7 not found", Error.INFORMATIVE),
        ("Error: room 7 is already booked", Error.INFORMATIVE),
    ],
)
def test_words_tell_most(answer: str, kind: Error | None) -> None:
    assert kinds(BOOK, answer, "done") == [kind]


def test_what_the_agent_made_up_is_its_own_fault() -> None:
    assert kinds(call("book", room="99"), "Error: room not found", "done") == [Error.CAUSAL]
    assert kinds(call("book", room_id="the large one"), "Error: room not found", "done") == [Error.CAUSAL]


def test_what_a_tool_had_told_before_is_no_news() -> None:
    shown = (call("get_room", room_id="71"), '{"room_id": "71", "status": "booked"}')
    refused = (call("book", room_id="71"), "Error: non-pending room cannot be booked", "done")
    assert kinds(*shown, *refused, request="Book 71.") == [None, Error.CAUSAL]
    assert kinds(*refused, request="Book 71.") == [Error.INFORMATIVE]


def test_what_it_looked_up_after_the_change_it_could_have_looked_up_before() -> None:
    refused = (call("book", room_id="7101"), "Error: room 7101 is not available")
    looked = (call("get_room", room_id="7101"), '{"room_id": "7101", "available": false}')
    assert kinds(*refused, *looked, "no", request="Book 7101.")[0] is Error.CAUSAL
    assert kinds(*refused, "no", request="Book 7101.")[0] is Error.INFORMATIVE


def test_a_short_number_is_heard_with_its_letters_and_in_this_case() -> None:
    missing = "Error: room R-001 not found"
    assert kinds(call("get_room", room_id="R-001"), missing, request="For user U001.") == [Error.CAUSAL]
    assert kinds(call("get_room", room_id="R-001"), missing, request="The room is R 001.") == [Error.INFORMATIVE]


def test_a_word_for_nothing_is_no_value() -> None:
    assert kinds(call("book", room="7", method="unknown"), "Error: room 7 is already booked") == [Error.CAUSAL]


def test_what_the_agent_did_next_tells_of_words_that_say_nothing() -> None:
    assert kinds(BOOK, "E_LOCKED", call("unlock", room="7"), "unlocked", BOOK, "booked")[0] is Error.INFORMATIVE
    assert kinds(BOOK, "E_17", call("book", room="R7"), "booked")[0] is Error.CAUSAL


def test_a_record_that_is_found_when_it_is_spelled_otherwise_was_spelled_wrongly() -> None:
    missing = (call("open", ref="5935"), "E_UNKNOWN")
    assert kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship 5935.")[0] is Error.CAUSAL
    assert kinds(*missing, call("open", ref="HD-5936"), "opened", request="Ship 5935.")[0] is Error.INFORMATIVE
    told = (call("list"), "HD-5935, HD-7100")
    assert kinds(*missing, *told, call("open", ref="HD-5935"), "opened", request="Ship 5935.")[0] is Error.INFORMATIVE
    assert kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship HD-5935.")[0] is Error.CAUSAL
    assert (
        kinds(*missing, call("open", ref="HD-5935"), "opened", request="Ship 5935 or HD-5935.")[0] is Error.INFORMATIVE
    )


def test_a_bug_that_other_arguments_get_past_was_the_callers() -> None:
    bug = "Error: '<' not supported between instances of 'int' and 'str'"
    assert kinds(call("book", n="5"), bug, call("book", n=5), "booked")[0] is Error.CAUSAL
    assert kinds(call("book", n="5"), bug, call("book", n="five"), bug) == [Error.ENVIRONMENT] * 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("total 12\n-rw-r--r-- errors.txt", None),
        ("bash: frob: command not found", Error.CAUSAL),
        ("Traceback (most recent call last):\n  ...\nValueError: the bug", Error.INFORMATIVE),
        ("Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module named 'x'", Error.ENVIRONMENT),
        ("3 failed, 2 passed", Error.INFORMATIVE),
        ("one done\nError with two: it has no end\nthree done", Error.INFORMATIVE),
        ("23:def find(name):\n24:    Raises an error if not found", None),
    ],
)
def test_in_a_shell_what_fails_is_mostly_what_was_looked_for(answer: str, kind: Error | None) -> None:
    assert kinds(call("bash", command="make test"), answer, "done") == [kind]


def agreement(sample: str) -> dict[str, Counter[bool]]:
    """By class, how many labels of a sample the rules agree with."""
    drafts: dict[str, Draft] = {}
    agreed: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    with Path(__file__).with_name(sample).open() as lines:
        for row in csv.DictReader(lines):
            if row["trajectory"] not in drafts:
                read = (one for _, batch in read_path(DATA / row["file"]) for one in batch)
                drafts |= {one.id: classify_errors(Draft.of(one, labelled=True)) for one in read}
            found = drafts[row["trajectory"]].steps[int(row["step"])].error
            agreed[row["class"]][(found or "ok") == row["class"]] += 1
    return agreed


@pytest.mark.skipif(not DATA.is_dir(), reason="the real trajectories are not here")
def test_it_agrees_with_people_on_real_data() -> None:
    """The rules were made with the first two samples at hand. The third was drawn and labelled after that, before any
    answer of the rules was seen, and led to no change of them.
    """
    every: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for sample in ("labels.csv", "labels_second.csv", "labels_third.csv"):
        for kind, counts in agreement(sample).items():
            every[kind] += counts
            if counts.total() >= 10:
                assert counts[True] >= 0.9 * counts.total(), (sample, kind, counts)
    for kind, counts in every.items():
        assert counts.total() >= 10, kind
        assert counts[True] >= 0.9 * counts.total(), (kind, counts)
