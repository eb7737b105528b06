"""Tenants of the tests: small tau2 files with a policy, successes, one failure and one error of a tool."""

import json
from pathlib import Path
from typing import Any

POLICIES = {"bakery": "Never bake on Sundays.", "garage": "Never lend the blue car."}
TASKS = 8
WORDS = ("apple", "bread", "cedar", "delta", "ember", "ferry", "gravel", "hazel")


def write_tenants(folder: Path) -> Path:
    """Write two tenants that call tools, and one that only talks; return ``folder``."""
    for name, policy in POLICIES.items():
        _write(folder / name, policy, [_episode(name, number) for number in range(TASKS)] + [_failure(name)])
    _write(folder / "silent", "Only talk.", [_talk(number) for number in range(TASKS)])
    return folder


def _write(folder: Path, policy: str, simulations: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    info = {"environment_info": {"domain_name": folder.name, "policy": policy, "tool_defs": None}, "agent_info": {}}
    (folder / "simulations.json").write_text(json.dumps({"info": info, "tasks": [], "simulations": simulations}))
    (folder / "policy.md").write_text(policy)


def _episode(tenant: str, number: int) -> dict[str, Any]:
    word = WORDS[number]
    return _simulation(
        f"task-{number}",
        1.0,
        [
            {"role": "assistant", "content": "Hi! How can I help you today?"},
            {"role": "user", "content": f"I need the {word} order {number * 37 + 11} of {tenant} please"},
            _call("a", "find_order", {"number": number * 37 + 11}),
            {"role": "tool", "id": "a", "content": json.dumps({"word": word, "state": "open"})},
            _call("b", "close_order", {"number": number * 37 + 11, "word": word}, "Let me close it."),
            {"role": "tool", "id": "b", "content": "closed"},
            {"role": "assistant", "content": f"The {word} order is closed."},
            {"role": "user", "content": "Thanks!"},
        ],
    )


def _failure(tenant: str) -> dict[str, Any]:
    call = _call("a", "burn_order", {"number": 1})
    messages = [{"role": "user", "content": f"Please ruin {tenant} number 999"}, call]
    return _simulation("task-failed", 0.0, [*messages, {"role": "tool", "id": "a", "content": "burnt"}])


def _talk(number: int) -> dict[str, Any]:
    question = {"role": "user", "content": f"What is {WORDS[number]} number {number * 37 + 11} about?"}
    return _simulation(f"task-{number}", 1.0, [question, {"role": "assistant", "content": f"A {WORDS[number]}."}])


def _simulation(task: str, reward: float, messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": task,
        "task_id": task,
        "trial": 0,
        "termination_reason": "user_stop",
        "reward_info": {"reward": reward, "reward_basis": ["DB"]},
        "messages": messages,
    }


def _call(id: str, name: str, arguments: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": id, "name": name, "arguments": arguments, "requestor": "assistant"}],
    }
