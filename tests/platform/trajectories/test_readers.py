"""Each reader on a small document of its format, written by hand."""

import json
import re
from pathlib import Path
from typing import Any

from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.files import COMPANION_SUFFIXES
from looper.platform.trajectories.ingest import read_path
from looper.platform.trajectories.readers import READERS, select_readers
from looper.platform.trajectories.rejection import Rejection


def read(document: Any) -> list[Trajectory | Rejection]:
    """Read a document that exactly one reader recognizes."""
    [reader] = [reader for reader in select_readers("auto") if reader.recognizes(document)]
    return list(reader.read(document))


def read_one(document: Any) -> Trajectory:
    [trajectory] = read(document)
    assert isinstance(trajectory, Trajectory), trajectory
    return trajectory


def outline(trajectory: Trajectory) -> list[tuple[str, str, list[tuple[str, str]], str | None]]:
    return [
        (step.source, step.content, [(call.name, call.arguments) for call in step.tool_calls], step.call_id)
        for step in trajectory.steps
    ]


def call(id: str | None, name: str, arguments: Any) -> dict[str, Any]:
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if id is None else {"id": id, **made}


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def test_openai_chat() -> None:
    trajectory = read_one(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Where?"}, {"type": "image_url"}]},
                {"role": "assistant", "content": None, "tool_calls": [call("a", "look", '{"at": 1}')]},
                {"role": "tool", "tool_call_id": "a", "content": "here"},
                {"role": "assistant", "content": "Here.", "reasoning_content": "It said here."},
            ],
            "tools": TOOLS,
            "task_id": 7,
            "reward": 1,
        }
    )
    assert outline(trajectory) == [
        ("developer", "Be brief.", [], None),
        ("user", "Where?\n[image_url]", [], None),
        ("agent", "", [("look", '{"at": 1}')], None),
        ("tool", "here", [], "a"),
        ("agent", "Here.", [], None),
    ]
    assert trajectory.steps[-1].reasoning == "It said here."
    assert (trajectory.task_id, trajectory.format) == ("7", "openai_chat")
    assert trajectory.tools is not None
    assert json.loads(trajectory.tools) == TOOLS
    assert (trajectory.outcome.success, trajectory.outcome.reward) == (True, 1.0)


def test_a_list_of_messages_gets_its_task_id_from_the_first_user_message() -> None:
    def episode(ask: str) -> Trajectory:
        return read_one([{"role": "user", "content": ask}, {"role": "assistant", "content": "Done."}])

    assert episode("Fix  it").task_id == episode("Fix it").task_id != episode("Break it").task_id
    assert episode("Fix it").outcome.success is None


def test_success_overrides_reward() -> None:
    messages = [{"role": "assistant", "content": "x"}]
    assert read_one({"messages": messages, "reward": 1.0, "success": False}).outcome.success is False
    assert read_one({"messages": messages, "reward": 0.5}).outcome.success is False


def test_tools_may_be_json_text() -> None:
    trajectory = read_one({"messages": [{"role": "assistant", "content": "x"}], "tools": json.dumps(TOOLS)})
    assert json.loads(trajectory.tools or "") == TOOLS


def test_tau_bench() -> None:
    runs = read(
        [
            {
                "task_id": 3,
                "reward": 1.0,
                "trial": 2,
                "info": {"reward_info": {"reward": 1.0, "actions": []}},
                "traj": [
                    {"role": "user", "content": "Cancel it."},
                    {"role": "assistant", "content": "One moment.", "tool_calls": [call("c", "cancel", "{}")]},
                    {"role": "tool", "tool_call_id": "c", "name": "cancel", "content": "ok"},
                ],
            },
            {"task_id": 4, "reward": 0.0, "trial": 0, "info": {"error": "rate limit"}, "traj": []},
        ]
    )
    kept, rejected = runs
    assert isinstance(kept, Trajectory)
    assert (kept.task_id, kept.outcome.success, kept.outcome.reward) == ("3", True, 1.0)
    assert json.loads(kept.outcome.detail)["trial"] == 2
    assert isinstance(rejected, Rejection)
    assert rejected.reason == "empty"


def test_calls_without_ids_are_answered_in_order_and_python_literals_become_json() -> None:
    trajectory = read_one(
        {
            "task_id": 0,
            "traj": [
                {
                    "role": "assistant",
                    "tool_calls": [call(None, "a", "{'name': 'Yusuf', 'fast': True}"), call(None, "b", "not {json")],
                },
                {"role": "tool", "name": "a", "content": "1"},
                {"role": "tool", "content": "2"},
            ],
        }
    )
    assert outline(trajectory) == [
        ("agent", "", [("a", '{"name":"Yusuf","fast":true}'), ("b", "not {json")], None),
        ("tool", "1", [], "call_0"),
        ("tool", "2", [], "call_1"),
    ]


def tau2(messages: list[dict[str, Any]], **simulation: Any) -> dict[str, Any]:
    return {
        "info": {"environment_info": {"domain_name": "shop", "policy": "Be kind.", "tool_defs": None}},
        "tasks": [],
        "simulations": [
            {
                "id": "s",
                "task_id": "t1",
                "trial": 0,
                "termination_reason": "user_stop",
                "reward_info": {"reward": 0.0, "reward_basis": ["DB"], "db_check": {"db_match": False}},
                "messages": messages,
                **simulation,
            }
        ],
    }


def test_tau2_distinguishes_calls_of_the_user_from_calls_of_the_agent() -> None:
    trajectory = read_one(
        tau2(
            [
                {"role": "assistant", "content": "Hi!", "timestamp": "2026-01-01T00:00:00"},
                {
                    "role": "user",
                    "content": None,
                    "tool_calls": [{"id": "u", "name": "pay", "arguments": {"sum": 3}, "requestor": "user"}],
                },
                {"role": "tool", "id": "u", "content": "paid", "requestor": "user"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "a", "name": "ship", "arguments": {}, "requestor": "assistant"},
                        {"id": "b", "name": "bill", "arguments": {}, "requestor": "assistant"},
                    ],
                },
                {
                    "role": "tool",
                    "tool_messages": [{"role": "tool", "id": i, "content": i.upper()} for i in ("b", "a")],
                },
            ]
        )
    )
    assert outline(trajectory) == [
        ("system", "Be kind.", [], None),
        ("agent", "Hi!", [], None),
        ("user", "", [("pay", '{"sum":3}')], None),
        ("tool", "paid", [], "u"),
        ("agent", "", [("ship", "{}"), ("bill", "{}")], None),
        ("tool", "B", [], "b"),
        ("tool", "A", [], "a"),
    ]
    assert [step.requestor for step in trajectory.steps] == [
        "agent",
        "agent",
        "user",
        "user",
        "agent",
        "agent",
        "agent",
    ]
    assert trajectory.steps[1].timestamp == "2026-01-01T00:00:00"
    assert (trajectory.task_id, trajectory.outcome.success, trajectory.outcome.reward) == ("t1", False, 0.0)
    detail = json.loads(trajectory.outcome.detail)
    assert detail["termination_reason"] == "user_stop"
    assert detail["db_check"] == {"db_match": False}


def test_tau2_keeps_an_episode_that_ended_on_a_call() -> None:
    """The source says why the episode ended (here a step limit), so a missing result is no sign of a truncated file."""
    messages = [{"role": "assistant", "tool_calls": [{"id": "a", "name": "ship", "arguments": {}}]}]
    assert read_one(tau2(messages, termination_reason="max_steps")).steps[-1].tool_calls[0].name == "ship"
    [cut] = read(tau2(messages, termination_reason=None))
    assert isinstance(cut, Rejection)
    assert cut.reason == "unanswered_call"


def test_swe_agent_with_commands_in_the_text() -> None:
    trajectory = read_one(
        {
            "environment": "main",
            "trajectory": [{"action": "ls\n", "observation": "a"}, {"action": "submit\n", "observation": "diff"}],
            "history": [
                {"role": "system", "content": "Work.", "message_type": "system_prompt"},
                {"role": "user", "content": "An old task", "is_demo": True},
                {"role": "user", "content": "ISSUE:\nIt  breaks\n\nINSTRUCTIONS:\nGo", "message_type": "observation"},
                {"role": "assistant", "content": "Look:\n```\nls\n```", "thought": "Look:", "action": "ls\n"},
                {"role": "user", "content": "a\nbash-$", "message_type": "observation"},
                {"role": "assistant", "content": "Done\n```\nsubmit\n```", "thought": "Done", "action": "submit\n"},
            ],
            "info": {"exit_status": "submitted"},
        }
    )
    assert outline(trajectory)[2:] == [
        ("agent", "Look:", [("bash", '{"command":"ls"}')], None),
        ("tool", "a\nbash-$", [], "command_3"),
        ("agent", "Done", [("bash", '{"command":"submit"}')], None),
        ("tool", "diff", [], "command_5"),
    ]
    assert trajectory.outcome.success is None
    assert json.loads(trajectory.outcome.detail)["exit_status"] == "submitted"


SWE_AGENT_CALLS = {
    "history": [
        {"role": "user", "content": [{"type": "text", "text": "Fix it"}], "message_type": "observation"},
        {"role": "assistant", "content": "x", "thought": "x", "action": "ls", "tool_calls": [call("c", "bash", "{}")]},
        {"role": "tool", "content": [{"type": "text", "text": "a"}], "tool_call_ids": ["c"]},
        {"role": "assistant", "content": "y", "action": "ls", "tool_calls": [call("c", "bash", '{"command":"ls"}')]},
        {"role": "tool", "content": "b", "tool_call_ids": ["c"]},
    ],
    "replay_config": json.dumps({"problem_statement": {"type": "text", "text": "It breaks", "id": "repo-1"}}),
}


def test_swe_agent_with_function_calls_whose_ids_repeat() -> None:
    trajectory = read_one(SWE_AGENT_CALLS)
    made = [call.id for step in trajectory.steps for call in step.tool_calls]
    answered = [step.call_id for step in trajectory.steps if step.source == "tool"]
    assert made == answered
    assert len(set(made)) == 2


def test_swe_agent_makes_the_task_id_from_the_words_of_the_issue() -> None:
    """Files of one task have nothing else in common: one has no id, another frames the issue differently."""
    framed = {
        "history": [
            {"role": "user", "content": "Here:\nISSUE:\nIt\nbreaks\n\n\nINSTRUCTIONS:\nFix"},
            {"role": "assistant", "content": "z"},
        ]
    }
    assert read_one(framed).task_id == read_one(SWE_AGENT_CALLS).task_id


def test_the_report_beside_a_traj_gives_its_outcome(tmp_path: Path) -> None:
    (tmp_path / "run.traj").write_text(json.dumps(SWE_AGENT_CALLS))
    (tmp_path / "run.report.json").write_text(json.dumps({"resolved": True, "tests_status": {}}))
    (tmp_path / "other.traj").write_text(json.dumps(SWE_AGENT_CALLS))
    found = {Path(report.path).name: trajectories for report, trajectories in read_path(tmp_path)}
    assert [t.outcome.success for t in found["run.traj"]] == [True]
    assert [t.outcome.success for t in found["other.traj"]] == [None]
    assert found["run.report.json"] == []


def openhands_action(id: int, response: str, name: str, call_id: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Let me see.", "tool_calls": calls}
    return {
        "id": id,
        "source": "agent",
        "action": name,
        "args": {"command": "ls", "thought": "Let me see."},
        "tool_call_metadata": {
            "function_name": name,
            "tool_call_id": call_id,
            "model_response": {"id": response, "choices": [{"message": message}]},
        },
    }


def openhands_result(id: int, call_id: str, content: str) -> dict[str, Any]:
    metadata = {"function_name": "run", "tool_call_id": call_id, "model_response": None}
    return {"id": id, "source": "agent", "observation": "run", "content": content, "tool_call_metadata": metadata}


def test_openhands() -> None:
    both = [call("p", "bash", '{"command": "ls"}'), call("q", "bash", '{"command": "pwd"}')]
    document = {
        "instance_id": "repo-2",
        "test_result": {"git_patch": "diff"},
        "error": None,
        "history": [
            {"id": 0, "source": "agent", "action": "system", "args": {"content": "Work.", "tools": TOOLS}},
            {"id": 1, "source": "user", "action": "message", "args": {"content": "Fix it"}},
            {"id": 2, "source": "user", "action": "recall", "args": {"query": "Fix it"}},
            {"id": 3, "source": "environment", "observation": "recall", "content": "Added", "cause": 2},
            openhands_action(4, "r1", "run", "p", both),
            openhands_result(5, "p", "a"),
            openhands_action(6, "r1", "run", "q", both),
            openhands_result(7, "q", "/"),
            {"id": 8, "source": "agent", "observation": "error", "content": "Parameter 'x' is expected"},
            openhands_action(9, "r2", "finish", "f", [call("f", "finish", "{}")]),
        ],
    }
    trajectory = read_one(document)
    assert outline(trajectory) == [
        ("system", "Work.", [], None),
        ("user", "Fix it", [], None),
        ("agent", "Let me see.", [("bash", '{"command": "ls"}'), ("bash", '{"command": "pwd"}')], None),
        ("tool", "a", [], "p"),
        ("tool", "/", [], "q"),
        ("user", "Parameter 'x' is expected", [], None),
        ("agent", "Let me see.", [("finish", "{}")], None),
    ]
    assert trajectory.task_id == "repo-2"
    assert json.loads(trajectory.tools or "") == TOOLS
    assert json.loads(trajectory.outcome.detail)["test_result"] == {"git_patch": "diff"}


def test_openhands_without_function_calls() -> None:
    trajectory = read_one(
        [
            {"id": 0, "source": "user", "action": "message", "args": {"content": "Fix it"}},
            {
                "id": 1,
                "source": "agent",
                "action": "run",
                "args": {"command": "ls", "thought": "Look", "hidden": False},
            },
            {"id": 2, "source": "environment", "observation": "run", "content": "a", "cause": 1},
            {"id": 3, "source": "agent", "action": "message", "args": {"content": "There is a."}},
        ]
    )
    assert outline(trajectory) == [
        ("user", "Fix it", [], None),
        ("agent", "Look", [("run", '{"command":"ls"}')], None),
        ("tool", "a", [], "1"),
        ("agent", "There is a.", [], None),
    ]


def test_atif() -> None:
    embedded = {"schema_version": "ATIF-v1.7", "steps": [{"step_id": 1, "source": "agent", "message": "Sub."}]}
    document = {
        "schema_version": "ATIF-v1.7",
        "session_id": "s",
        "agent": {"name": "a", "version": "1", "tool_definitions": TOOLS},
        "steps": [
            {"step_id": 1, "source": "agent", "message": "Before.", "is_copied_context": True},
            {"step_id": 2, "source": "user", "message": "Where?", "timestamp": "2026-01-01T00:00:00Z"},
            {
                "step_id": 3,
                "source": "agent",
                "message": "I look.",
                "reasoning_content": "Not known yet.",
                "tool_calls": [{"tool_call_id": "c", "function_name": "look", "arguments": {"at": "é"}}],
                "observation": {"results": [{"source_call_id": "c", "content": [{"type": "text", "text": "here"}]}]},
            },
            {"step_id": 4, "source": "agent", "message": "So.", "observation": {"results": [{"content": "Bye"}]}},
        ],
        "subagent_trajectories": [embedded],
        "extra": {"task_id": "t9", "reward": 1.0, "other": {}},
        "final_metrics": {"total_steps": 4},
    }
    trajectory, sub = read(document)
    assert isinstance(trajectory, Trajectory)
    assert isinstance(sub, Trajectory)
    assert outline(trajectory) == [
        ("user", "Where?", [], None),
        ("agent", "I look.", [("look", '{"at":"é"}')], None),
        ("tool", "here", [], "c"),
        ("agent", "So.", [], None),
        ("user", "Bye", [], None),
    ]
    assert (trajectory.task_id, trajectory.outcome.success, trajectory.outcome.reward) == ("t9", True, 1.0)
    assert trajectory.steps[0].timestamp == "2026-01-01T00:00:00Z"
    assert trajectory.steps[1].reasoning == "Not known yet."
    assert json.loads(trajectory.tools or "") == TOOLS
    assert outline(sub) == [("agent", "Sub.", [], None)]


def test_equal_episodes_have_equal_ids_and_different_ones_do_not() -> None:
    def messages(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]

    assert read_one(messages("a")).id == read_one({"messages": messages("a")}).id != read_one(messages("b")).id


def test_the_reader_in_the_guide_works() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "add-a-format.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    [document] = re.findall(r"for logs such as `(.*?)`:", guide, re.DOTALL)
    module: dict[str, Any] = {"__name__": "move_log"}
    exec(compile(code, "add-a-format.md", "exec"), module)  # noqa: S102 (our own documentation)
    reader, log = module["READER"], json.loads(document)
    assert reader.recognizes(log)
    assert not any(known.recognizes(log) for known in READERS.values())
    [trajectory] = reader.read(log)
    assert outline(trajectory) == [
        ("user", "...", [], None),
        ("agent", "", [("look", "{}")], None),
        ("tool", "...", [], "call_0"),
    ]
    assert trajectory.outcome.success is True
    [rejected] = reader.read({"goal": "x", "moves": [{}]})
    assert rejected.reason == "malformed_episode"


def test_every_format_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "ingestion.md").read_text()
    assert all(f"| `{name}` |" in page for name in READERS)


def test_every_companion_is_looked_for() -> None:
    assert {reader.companion_suffix for reader in READERS.values()} - {None} == COMPANION_SUFFIXES
