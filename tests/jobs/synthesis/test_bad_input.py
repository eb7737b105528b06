"""Malformed input, from the file to the report: it is kept, repaired or rejected with a reason, and never lost."""

import json
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.llm.draft_stages import run_draft_stages
from looper.jobs.synthesis.llm.endpoint import generate_with_endpoint
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.jobs.synthesis.pipeline.stages import run_episode_stages
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


def tool_call(name: str = "book", arguments: object = '{"room": "7"}', id: str = "c1") -> Message:
    return {"role": "assistant", "tool_calls": [{"id": id, "function": {"name": name, "arguments": arguments}}]}


def result(content: str = "booked", id: str | None = "c1") -> Message:
    return {"role": "tool", "content": content, "tool_call_id": id}


def chat(*messages: Message, task: str = "odd", **more: object) -> Message:
    return {"messages": [SYSTEM, USER, *messages], "tools": TOOLS, "task_id": task, "success": True, **more}


def valid_document(task: int) -> Message:
    booking = tool_call(arguments=json.dumps({"room": str(task), "day": "1"}))
    return chat(booking, result(), DONE, task=f"task-{task}") | {
        "messages": [SYSTEM, {"role": "user", "content": f"Book room {task}."}, booking, result(), DONE]
    }


def ingest_and_synthesize(path: Path, documents: Sequence[object]) -> tuple[FileReport, SynthesisReport, list[Example]]:
    """Turn documents into examples, and check that all counts add up."""
    path.write_text("\n".join(json.dumps(document) for document in documents))
    ((read, kept),) = read_path(path)
    assert read.trajectories == read.kept + read.rejected == len(documents)
    assert sum(read.reasons.values()) == read.rejected
    report, files = synthesize_in_memory([kept], 0.5)
    assert report.trajectories == read.kept == report.train + report.holdout + sum(report.rejected.values())
    assert "Synthesis of it" in render_report_page(report, "it")
    return read, report, [*read_examples(files["train.parquet"]), *read_examples(files["holdout.parquet"])]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (chat({"role": "narrator", "content": "Meanwhile"}, DONE), "unknown_role"),
        (chat({"role": 7, "content": "x"}, DONE), "malformed_episode"),
        (chat(result(), DONE), "orphan_result"),
        (chat(tool_call(), result(), result(), DONE), "orphan_result"),
        (chat(tool_call(), result(id="c9"), DONE), "orphan_result"),
        (chat(tool_call(), DONE), "unanswered_call"),
        (chat(tool_call()), "unanswered_call"),
        (chat(), "empty"),
    ],
)
def test_an_inconsistent_episode_is_rejected_when_it_is_read(tmp_path: Path, document: Message, reason: str) -> None:
    read, report, _ = ingest_and_synthesize(tmp_path / "a.jsonl", [document, *map(valid_document, range(3))])
    assert read.reasons == {reason: 1}
    assert report.train + report.holdout == 3


@pytest.mark.parametrize(
    "document",
    [
        chat(tool_call(), result(id=None), DONE),
        chat(tool_call(), result(), DONE, tool_call("finish", "{}", "c2")),
        chat(tool_call(), result(), tool_call(id="c1"), result("booked again"), DONE),
        chat(tool_call() | {"id": 2, "parent_id": 3}, result() | {"id": 3, "parent_id": 2}, DONE | {"parent_id": 99}),
    ],
    ids=["a result without an id", "ended by its last call", "one id twice", "cyclic parents"],
)
def test_a_slightly_malformed_episode_is_kept(tmp_path: Path, document: Message) -> None:
    read, report, examples = ingest_and_synthesize(tmp_path / "a.jsonl", [document, *map(valid_document, range(3))])
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
def test_an_event_without_an_earlier_cause_is_an_orphan(tmp_path: Path, cause: int, reason: str | None) -> None:
    history = [
        {"id": 1, "source": "user", "action": "message", "args": {"content": "List the files."}},
        event(2, action="run", args={"command": "ls"}, cause=4),
        event(3, observation="run", content="a.txt", cause=cause),
        event(4, action="message", args={"content": "There is a.txt."}, cause=2),
    ]
    read, report, examples = ingest_and_synthesize(tmp_path / "a.jsonl", [{"instance_id": "i", "history": history}])
    assert read.reasons == ({reason: 1} if reason else {})
    assert len(examples) == report.trajectories == (0 if reason else 1)


def test_nested_subagent_trajectories_are_all_read(tmp_path: Path) -> None:
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
    ("arguments", "expected"),
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
    ids=["Python", "none", "cut off", "words", "a list", "lone surrogate", "null", "nested", "nested without end"],
)
def test_arguments_that_are_not_json_are_repaired_or_kept(tmp_path: Path, arguments: object, expected: str) -> None:
    """A Python literal is repaired. Other texts are what the agent did, and stay as they are."""
    odd = chat(tool_call(arguments=arguments), result("Error: not JSON"), tool_call(id="c2"), result(id="c2"), DONE)
    _, report, examples = ingest_and_synthesize(tmp_path / "a.jsonl", [odd, *map(valid_document, range(3))])
    assert report.rejected == {}
    (kept,) = (example for example in examples if example.task_id == "odd")
    assert kept.turns[2].tool_calls[0].arguments == expected


@pytest.mark.parametrize(
    ("calling", "detail"),
    [
        (tool_call("cook", '{"dish": "soup"}'), "cook is not in the list of tools"),
        (tool_call(arguments='{"day": "1"}'), "book was called without room"),
        (tool_call(arguments='{"room": "7", "hour": 3}'), "book was called with hour, which it does not take"),
        (tool_call(arguments='"7"'), "book was called with arguments that are no JSON object"),
        (tool_call(), None),
    ],
)
def test_a_schema_that_contradicts_the_calls_is_reported(tmp_path: Path, calling: Message, detail: str | None) -> None:
    _, report, examples = ingest_and_synthesize(
        tmp_path / "a.jsonl", [chat(calling, result(), DONE), *map(valid_document, range(3))]
    )
    assert len(examples) == 4, "the tool accepted the call, so the episode stays"
    assert report.tally.found["schema: contradicts_schema"] == (1 if detail else 0)
    if detail:
        assert any(detail in verdict for sample in report.tally.samples for verdict in sample.verdicts)


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "book", "parameters": {"properties": 7}}}],
        [{}],
        [{"function": 3}],
        [],
    ],
)
def test_an_invalid_schema_rejects_no_episode(tmp_path: Path, tools: object) -> None:
    odd = chat(tool_call(), result(), DONE, tools=tools)
    _, report, _ = ingest_and_synthesize(tmp_path / "a.jsonl", [odd, *map(valid_document, range(3))])
    assert report.train + report.holdout == 4


def test_an_episode_may_mix_languages_and_scripts(tmp_path: Path) -> None:
    said = "您好，我叫王伟。 مرحبا 🎉 \u202e\x00 ñandú हिन्दी עברית \ufeff e\u0301"
    odd = chat(
        {"role": "user", "content": said},
        tool_call("búsqueda", json.dumps({"имя": "Анна", "部屋": "七"}, ensure_ascii=False)),
        result("错误：找不到 — Error: habitación no encontrada"),
        tool_call(id="c2"),
        result("予約しました", "c2"),
        {"role": "assistant", "content": "完成 ✓ готово"},
    )
    read, report, examples = ingest_and_synthesize(tmp_path / "a.jsonl", [odd, *map(valid_document, range(3))])
    assert (read.rejected, report.rejected) == (0, {})
    (kept,) = (example for example in examples if example.task_id == "odd")
    assert kept.turns[-1].content == "完成 ✓ готово"
    first_call = next(turn.tool_calls[0] for turn in kept.turns if turn.tool_calls)
    assert json.loads(first_call.arguments)["部屋"] == "七"
    assert report.tally.errors == {"causal": 1}


def long_episode_call(pattern: str, number: int) -> tuple[str, str, str]:
    """Return the tool, room and result of one call of a very long episode."""
    match pattern:
        case "fine":
            return "get_room", f"R-{number}", f"room {number}: free"
        case "refused":
            return "book", "7101", "Error: room 7101 is not available"
        case "not found":
            return "get_room", f"{number + 9000}", f"Error: room {number + 9000} not found"
        case "one loop":
            return "get_room", "7", "free"
        case "a long cycle":
            return "book", f"{number % 100}", f"E_17 {number % 100}"
        case "changed again and again":
            return "book", "7", f"booked for ann{number}@example.com"
    return "get_room", f"{number}", "Error: 'NoneType' object has no attribute 'x'"


@pytest.mark.parametrize(
    "pattern", ["fine", "refused", "not found", "one loop", "a long cycle", "changed again and again", "broken"]
)
def test_ten_thousand_steps_finish_within_a_minute(tmp_path: Path, pattern: str) -> None:
    messages: list[Message] = []
    for number in range(5000):
        name, room, answer = long_episode_call(pattern, number)
        messages += [
            tool_call(name, json.dumps({"room": room, "n": number // 2}), f"c{number}"),
            result(answer, f"c{number}"),
        ]
    started = time.process_time()
    read, report, _ = ingest_and_synthesize(
        tmp_path / "a.jsonl", [chat(*messages, DONE), *map(valid_document, range(3))]
    )
    assert time.process_time() - started < 60
    assert read.kept == report.trajectories == 4


class Judge(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that returns ``response``, or closes the connection without one."""

    def __init__(self, response: str | None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if response is None:
                    self.close_connection = True
                    return
                body = json.dumps({"choices": [{"message": {"role": "assistant", "content": response}}]}).encode()
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
    ("judge", "code"),
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
def test_a_judge_without_a_usable_response_changes_no_draft(tmp_path: Path, judge: ModelSettings, code: str) -> None:
    documents = [valid_document(task) | {"success": None} for task in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents)))
    ((_, kept),) = read_path(tmp_path / "a.jsonl")
    drafts = [run_episode_stages(Draft.from_trajectory(one, has_labels=False)) for one in kept]
    judged = run_draft_stages(drafts, lambda requests: generate_with_endpoint(requests, judge), judge.stages)
    for before, after in zip(drafts, judged, strict=True):
        assert (after.grade, after.rejected, after.steps) == (before.grade, before.rejected, before.steps)
        assert after.verdicts[-1].code == code
