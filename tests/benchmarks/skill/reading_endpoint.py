"""An endpoint of OpenAI's API whose models work in the gym by what stands in their prompt. No model is needed.

The base model reads codes off notes, memories and earlier episodes, and does not know what it cannot read there. The
skill knows the codes of its world, follows newer notes and ignores the rest. The bare-taught skill knows them too, and
copies placeholders out of notes. Neither stays within a conversation of which it cannot see the task.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from looper.benchmarks.skill.arms.changed_rules import move_task
from looper.gym.policies import expert_agent
from looper.gym.workplace import Convention, Workplace, WorkplaceTask

MAX_PROMPT_CHARACTERS = 40_000
"""A longer prompt is refused, as by an engine whose context is full."""


class ReadingModels:
    """The models of the endpoint.

    Attributes:
        prompts: Every prompt that was asked, with its model.
        written: What a model answers when it is asked for a text; the default is empty.
    """

    def __init__(self, world: Workplace, seeds: tuple[int, ...] = (0,), count: int = 400) -> None:
        self.world = world
        self.prompts: list[tuple[str, list[dict[str, Any]]]] = []
        self.written: list[str] = []
        drawn = [world.task(task_id, seed) for seed in seeds for task_id in world.task_ids(count)]
        self._tasks = {task.request: task for task in drawn}

    def answer(self, model: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
        self.prompts.append((model, messages))
        last = max(index for index, message in enumerate(messages) if message["role"] == "user")
        task = self._tasks.get(messages[last]["content"])
        if task is None or not tools:
            return {"role": "assistant", "content": self.written.pop(0) if self.written else ""}
        before = "\n".join(_to_text(message) for message in messages[:last])
        if model.endswith("-bare-0") and "<notes>" in before:
            return _call(self.world.tools[0].name, {name: f"<{name}>" for name in self.world.tools[0].parameters})
        codes = self._read_codes(task, before, newer_only="/" in model)
        if "/" not in model and any(code is None for code in codes.values()):
            return {"role": "assistant", "content": "I do not know."}
        known = {name: code for name, code in codes.items() if code is not None}
        return expert_agent(move_task(task, _with_codes(task, known)))(messages[last:], tools)

    def _read_codes(self, task: WorkplaceTask, text: str, *, newer_only: bool) -> dict[str, str | None]:
        """The last code that the prompt has for each convention of the task: a newer line stands below an older one."""
        found: dict[str, str | None] = {}
        for name, convention in self.world.conventions.items():
            word = re.escape(task.facts[convention.fact])
            patterns = [rf"the {name} for {word} is (?:now )?([\w-]+) instead"]
            if not newer_only:
                patterns += [rf"{name} by {convention.fact}:[^\n]*?{word} -> ([\w-]+)"]
                # An earlier episode: a request with the word, and the last call with a code before the next request.
                patterns += [rf'user: (?:(?!user:).)*?{word}(?:(?!user:).)*"{name}": "([\w-]+)"']
            matches = [match for each in patterns for match in re.finditer(each, text, re.DOTALL)]
            found[name] = max(matches, key=lambda match: match.start(1))[1] if matches else None
        return found


@contextmanager
def serve_models(models: ReadingModels, names: list[str]) -> Iterator[str]:
    """Serve the models over HTTP.

    Args:
        models: The models.
        names: Names that the endpoint lists.

    Yields:
        Base URL of OpenAI's API.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            size = len(json.dumps(asked))
            if size > MAX_PROMPT_CHARACTERS:
                self._send(400, {"error": {"message": "the prompt is too long"}})
                return
            message = models.answer(asked["model"], asked["messages"], asked.get("tools", []))
            usage = {"prompt_tokens": size // 4, "completion_tokens": 7, "total_tokens": size // 4 + 7}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            details = {"prompt_tokens_details": {"cached_tokens": size // 8}}
            common = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
            self._send(200, {**common, "choices": [choice], "usage": usage | details})

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _with_codes(task: WorkplaceTask, codes: dict[str, str]) -> Workplace:
    conventions = {}
    for name, each in task.workplace.conventions.items():
        word = task.facts[each.fact]
        conventions[name] = Convention(each.fact, {**each.codes, word: codes.get(name, each.codes[word])})
    return replace(task.workplace, conventions=conventions)


def _to_text(message: dict[str, Any]) -> str:
    calls = [f"call: {raw['function']['arguments']}" for raw in message.get("tool_calls") or ()]
    return "\n".join([f"{message['role']}: {message.get('content') or ''}", *calls])


def _call(name: str, arguments: dict[str, str]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }
