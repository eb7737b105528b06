"""Bad input, from the file to the report: kept, repaired or rejected with the reason; never a crash, never lost."""

import json
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.llm.draft_stages import improve
from looper.jobs.synthesis.llm.endpoint import ask_endpoint
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.output.report_page import to_html
from looper.jobs.synthesis.pipeline.stages import each
from looper.platform.domain.example import Example
from looper.platform.settings import ModelSettings
from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.report import FileReport

Message = dict[str, Any]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "book", "parameters": {"properties": {"room": {}, "day": {}}, "required": ["room"]}},
    }
]
SYSTEM, USER = {"role": "system", "content": "You book rooms."}, {"role": "user", "content": "Book room 7."}
DONE = {"role": "assistant", "content": "It is booked."}


def calls(name: str = "book", arguments: object = '{"room": "7"}', id: str = "c1") -> Message:
    return {"role": "assistant", "tool_calls": [{"id": id, "function": {"name": name, "arguments": arguments}}]}


def answers(content: str = "booked", id: str | None = "c1") -> Message:
    return {"role": "tool", "content": content, "tool_call_id": id}


def chat(*messages: Message, task: str = "odd", **more: object) -> Message:
    return {"messages": [SYSTEM, USER, *messages], "tools": TOOLS, "task_id": task, "success": True, **more}


def good(task: int) -> Message:
    called = calls(arguments=json.dumps({"room": str(task), "day": "1"}))
    return chat(called, answers(), DONE, task=f"task-{task}") | {
        "messages": [SYSTEM, {"role": "user", "content": f"Book room {task}."}, called, answers(), DONE]
    }


def through(path: Path, documents: Sequence[object]) -> tuple[FileReport, SynthesisReport, list[Example]]:
    """From a file to examples; what goes in is counted to the end."""
    path.write_text("\n".join(json.dumps(document) for document in documents))
    ((read, kept),) = read_path(path)
    assert read.trajectories == read.kept + read.rejected == len(documents)
    assert sum(read.reasons.values()) == read.rejected
    report, files = in_memory([kept], 0.5)
    assert report.trajectories == read.kept == report.train + report.holdout + sum(report.rejected.values())
    assert "Synthesis of it" in to_html(report, "it")
    return read, report, [*read_examples(files["train.parquet"]), *read_examples(files["holdout.parquet"])]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (chat({"role": "narrator", "content": "Meanwhile"}, DONE), "unknown_role"),
        (chat({"role": 7, "content": "x"}, DONE), "malformed_episode"),
        (chat(answers(), DONE), "orphan_result"),
        (chat(calls(), answers(), answers(), DONE), "orphan_result"),
        (chat(calls(), answers(id="c9"), DONE), "orphan_result"),
        (chat(calls(), DONE), "unanswered_call"),
        (chat(calls()), "unanswered_call"),
        (chat(), "empty"),
    ],
)
def test_what_does_not_hold_together_is_rejected_where_it_is_read(tmp_path: Path, what: Message, reason: str) -> None:
    read, report, _ = through(tmp_path / "a.jsonl", [what, *map(good, range(3))])
    assert read.reasons == {reason: 1}
    assert report.train + report.holdout == 3


@pytest.mark.parametrize(
    "what",
    [
        chat(calls(), answers(id=None), DONE),
        chat(calls(), answers(), DONE, calls("finish", "{}", "c2")),
        chat(calls(), answers(), calls(id="c1"), answers("booked again"), DONE),
        chat(calls() | {"id": 2, "parent_id": 3}, answers() | {"id": 3, "parent_id": 2}, DONE | {"parent_id": 99}),
    ],
    ids=["a result without an id", "ended by its last call", "one id twice", "parents in a circle"],
)
def test_what_can_be_understood_is_kept(tmp_path: Path, what: Message) -> None:
    read, report, examples = through(tmp_path / "a.jsonl", [what, *map(good, range(3))])
    assert (read.rejected, report.rejected) == (0, {})
    (kept,) = (example for example in examples if example.task_id == "odd")
    made = [call.id for turn in kept.turns for call in turn.tool_calls]
    assert len(made) == len(set(made))
    assert {turn.call_id for turn in kept.turns if turn.role == "tool"} <= set(made)


def event(id: int, **more: object) -> Message:
    return {"id": id, "source": "agent", **more}


@pytest.mark.parametrize(
    ("cause", "reason"), [(2, None), (3, "orphan_result"), (4, "orphan_result"), (99, "orphan_result")]
)
def test_an_event_caused_by_itself_by_a_later_one_or_by_none_is_an_orphan(
    tmp_path: Path, cause: int, reason: str | None
) -> None:
    history = [
        {"id": 1, "source": "user", "action": "message", "args": {"content": "List the files."}},
        event(2, action="run", args={"command": "ls"}, cause=4),
        event(3, observation="run", content="a.txt", cause=cause),
        event(4, action="message", args={"content": "There is a.txt."}, cause=2),
    ]
    read, report, examples = through(tmp_path / "a.jsonl", [{"instance_id": "i", "history": history}])
    assert read.reasons == ({reason: 1} if reason else {})
    assert len(examples) == report.trajectories == (0 if reason else 1)


def test_agents_within_agents_are_all_read(tmp_path: Path) -> None:
    def atif(task: str, *within: Message) -> Message:
        steps = [{"source": "user", "message": f"Do {task}."}, {"source": "agent", "message": f"Done {task}."}]
        return {
            "schema_version": "ATIF-v1.4",
            "steps": steps,
            "extra": {"task_id": task, "success": True},
            "subagent_trajectories": list(within),
        }

    (tmp_path / "a.json").write_text(json.dumps(atif("one", atif("two", atif("three")), atif("four"))))
    ((read, kept),) = read_path(tmp_path / "a.json")
    assert read.kept == 4
    assert [one.task_id for one in kept] == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("arguments", "become"),
    [
        ("{'room': '7', 'quiet': True}", '{"room":"7","quiet":true}'),
        ("", "{}"),
        ('{"room": "7"', '{"room": "7"'),
        ("room 7, please", "room 7, please"),
        ("[1, 2]", "[1, 2]"),
        ('"\\ud800"', '"\\ud800"'),
        (None, "{}"),
        ('{"a":' * 500 + "1" + "}" * 500, '{"a":' * 500 + "1" + "}" * 500),
        ("[" * 50_000, "[" * 50_000),
    ],
    ids=["Python", "none", "cut off", "words", "a list", "half a sign", "null", "nested", "nested without end"],
)
def test_arguments_that_are_not_json(tmp_path: Path, arguments: object, become: str) -> None:
    """A literal of Python is repaired; the rest is what the agent did, and stays as it wrote it."""
    odd = chat(calls(arguments=arguments), answers("Error: not JSON"), calls(id="c2"), answers(id="c2"), DONE)
    _, report, examples = through(tmp_path / "a.jsonl", [odd, *map(good, range(3))])
    assert report.rejected == {}
    (kept,) = (example for example in examples if example.task_id == "odd")
    assert kept.turns[2].tool_calls[0].arguments == become


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (calls("cook", '{"dish": "soup"}'), "cook is no tool of the list"),
        (calls(arguments='{"day": "1"}'), "book was called without room"),
        (calls(arguments='{"room": "7", "hour": 3}'), "book was called with hour, which it does not take"),
        (calls(arguments='"7"'), "book was not called with a JSON object"),
        (calls(), None),
    ],
)
def test_a_schema_that_contradicts_the_calls_is_said(tmp_path: Path, called: Message, why: str | None) -> None:
    _, report, examples = through(tmp_path / "a.jsonl", [chat(called, answers(), DONE), *map(good, range(3))])
    assert len(examples) == 4, "the tool took it: it stays"
    assert report.tally.found["schema: contradicts_schema"] == (1 if why else 0)
    if why:
        assert any(why in verdict for sample in report.tally.samples for verdict in sample.verdicts)


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "book", "parameters": {"properties": 7}}}],
        [{}],
        [{"function": 3}],
        [],
    ],
)
def test_a_schema_that_is_none_stops_nobody(tmp_path: Path, tools: object) -> None:
    odd = chat(calls(), answers(), DONE, tools=tools)
    _, report, _ = through(tmp_path / "a.jsonl", [odd, *map(good, range(3))])
    assert report.train + report.holdout == 4


def test_languages_and_scripts_may_be_mixed(tmp_path: Path) -> None:
    said = "您好，我叫王伟。 مرحبا 🎉 \u202e\x00 ñandú हिन्दी עברית \ufeff e\u0301"
    odd = chat(
        {"role": "user", "content": said},
        calls("búsqueda", json.dumps({"имя": "Анна", "部屋": "七"}, ensure_ascii=False)),
        answers("错误：找不到 — Error: habitación no encontrada"),
        calls(id="c2"),
        answers("予約しました", "c2"),
        {"role": "assistant", "content": "完成 ✓ готово"},
    )
    read, report, examples = through(tmp_path / "a.jsonl", [odd, *map(good, range(3))])
    assert (read.rejected, report.rejected) == (0, {})
    (kept,) = (example for example in examples if example.task_id == "odd")
    assert kept.turns[-1].content == "完成 ✓ готово"
    assert json.loads(kept.turns[2].tool_calls[0].arguments)["部屋"] == "七"
    assert report.tally.errors == {"causal": 1}


def long(of: str, number: int) -> tuple[str, str, str]:
    """A call and its answer, of an episode that goes on for very long."""
    match of:
        case "fine":
            return "get_room", f"R-{number}", f"room {number}: free"
        case "refused":
            return "book", "7101", "Error: room 7101 is not available"
        case "not found":
            return "get_room", f"{number + 9000}", f"Error: room {number + 9000} not found"
        case "one loop":
            return "get_room", "7", "free"
        case "a long round":
            return "book", f"{number % 100}", f"E_17 {number % 100}"
        case "changed again and again":
            return "book", "7", f"booked for ann{number}@example.com"
    return "get_room", f"{number}", "Error: 'NoneType' object has no attribute 'x'"


@pytest.mark.parametrize(
    "of", ["fine", "refused", "not found", "one loop", "a long round", "changed again and again", "broken"]
)
def test_ten_thousand_steps_take_seconds(tmp_path: Path, of: str) -> None:
    messages: list[Message] = []
    for number in range(5000):
        name, room, answer = long(of, number)
        messages += [
            calls(name, json.dumps({"room": room, "n": number // 2}), f"c{number}"),
            answers(answer, f"c{number}"),
        ]
    started = time.process_time()
    read, report, _ = through(tmp_path / "a.jsonl", [chat(*messages, DONE), *map(good, range(3))])
    assert time.process_time() - started < 60
    assert read.kept == report.trajectories == 4


class Judge(ThreadingHTTPServer):
    """Of OpenAI's protocol, in part: says ``answer``, or nothing and hangs up."""

    def __init__(self, answer: str | None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if answer is None:
                    self.close_connection = True
                    return
                body = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[ModelSettings]:
    with Judge(request.param) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield ModelSettings(stages=("judge",), endpoint=url, name="judge", max_attempts=1, timeout_s=10)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("judge", "what"),
    [
        ("Bananas.", "judge_nonsense"),
        ('{"success": "perhaps"}', "judge_nonsense"),
        ('{"success": true} {"success": false}', "judge_nonsense"),
        ("[" * 50_000, "judge_nonsense"),
        ("", "judge_nonsense"),
        (None, "judge_silent"),
    ],
    indirect=["judge"],
)
def test_a_judge_that_answers_nonsense_or_not_at_all_changes_nothing(
    tmp_path: Path, judge: ModelSettings, what: str
) -> None:
    documents = [good(task) | {"success": None} for task in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents)))
    ((_, kept),) = read_path(tmp_path / "a.jsonl")
    drafts = [each(Draft.of(one, labelled=False)) for one in kept]
    judged = improve(drafts, lambda requests: ask_endpoint(requests, judge), judge.stages)
    for before, after in zip(drafts, judged, strict=True):
        assert (after.grade, after.rejected, after.steps) == (before.grade, before.rejected, before.steps)
        assert after.verdicts[-1].what == what
