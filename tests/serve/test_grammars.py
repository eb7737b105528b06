"""Grammars on a real engine: a hostile one is refused by name, and other tenants are served meanwhile."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import openai

from tests.serve.live import HELLO, LiveServer, find_processes, send_chat

BOOK = {"type": "function", "function": {"name": "book", "parameters": {"type": "object"}}}
ROOM = {"type": "object", "properties": {"room": {"enum": ["blue", "red"]}}, "required": ["room"]}
MAX_PAUSE_S = 5
"""Maximum pause of a stream while a grammar of another tenant is tried. A step of the tiny model takes some 10 ms."""


def nested(levels: int, width: int) -> dict[str, Any]:
    """Return a schema whose objects have so many properties beside the one that goes deeper."""
    schema: dict[str, Any] = {"type": "string"}
    for level in range(levels):
        properties = {f"b{number}": {"type": "string"} for number in range(width)}
        schema = {"type": "object", "properties": {f"a{level}": schema, **properties}}
    return schema


def as_format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}}


def as_tool(schema: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "book", "parameters": schema}}
    return {"tools": [tool], "tool_choice": "required"}


def structured(**kinds: Any) -> dict[str, Any]:
    return {"structured_outputs": kinds}


def tag(**content: Any) -> str:
    return json.dumps({"type": "structural_tag", "format": content})


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "refers to itself": ("response_format", as_format({"$ref": "#"})),
    "refers to itself, as a tool": ("tools", as_tool({"$ref": "#"})),
    "too large": ("response_format", as_format({"enum": ["x" * 300_000]})),
    "nothing is valid": ("response_format", as_format({"enum": []})),
    "unsupported keywords": ("response_format", as_format({"type": "integer", "multipleOf": 3})),
    "endless": ("structured_outputs", structured(grammar="root ::= root")),
    "dead end": ("structured_outputs", structured(grammar='root ::= "x" a\na ::= a "b"')),
    "ambiguous": ("structured_outputs", structured(grammar=f'root ::= s\ns ::= {"s " * 10} | "a" | ""')),
    "ambiguous regex": ("structured_outputs", structured(regex="((a{1,300}){1,300}){1,300}")),
    "unknown rule": ("structured_outputs", structured(grammar="root ::= other")),
    "deep parentheses": ("structured_outputs", structured(regex="(" * 50_000 + ")" * 50_000)),
    "no token": ("structured_outputs", structured(structural_tag=tag(type="token", token=99_999_999))),
    "negative token": ("structured_outputs", structured(structural_tag=tag(type="token", token=-1))),
    "no choice": ("structured_outputs", structured(choice=[])),
    "no object": ("structured_outputs", structured(json_object=False)),
    "empty": ("structured_outputs", structured(grammar=" ")),
    "NUL": ("structured_outputs", structured(regex="a\0")),
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "schema": as_format(ROOM),
    "json": structured(json=ROOM),
    "json object": {"response_format": {"type": "json_object"}},
    "regex": structured(regex="[ab]{3}"),
    "choice": structured(choice=["blue", "red"]),
    "grammar": structured(grammar='root ::= "blue" | root "a"'),
    "lark": structured(grammar='start: "blue" | "red"'),
    "structural tag": structured(structural_tag=tag(type="regex", pattern="[ab]{3}")),
    "tools": as_tool(ROOM),
    "named tool": {**as_tool(ROOM), "tool_choice": {"type": "function", "function": {"name": "book"}}},
}


def post(live: LiveServer, client: openai.OpenAI, body: dict[str, Any], **more: Any) -> httpx.Response:
    return httpx.post(
        f"{live.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {client.api_key}"},
        json={"model": "tiny", "messages": HELLO, "max_tokens": 8, **body, **more},
        timeout=120,
    )


def test_a_grammar_that_the_engine_cannot_use_is_refused_by_name(live: LiveServer) -> None:
    hostile, other = live.tenant("grammar-hostile"), live.tenant("grammar-other")
    engines = find_processes("EngineCore")
    for name, (field, body) in REFUSED.items():
        for stream in (False, True):
            response = post(live, hostile, body, stream=stream)
            assert response.status_code == 400, (name, response.text)
            error = response.json()["error"]
            assert error["param"].startswith(field), (name, error)
            assert field in error["message"]
        send_chat(other, "tiny")
    assert find_processes("EngineCore") == engines


def test_every_kind_of_grammar_is_served(live: LiveServer) -> None:
    client = live.tenant("grammar-kinds")
    for name, body in ACCEPTED.items():
        response = post(live, client, body, max_tokens=40)
        assert response.status_code == 200, (name, response.text)
    choice = post(live, client, ACCEPTED["choice"], max_tokens=40).json()["choices"][0]
    assert choice["message"]["content"] in ("blue", "red")


def test_a_grammar_that_becomes_slow_ends_its_own_request_only(live: LiveServer) -> None:
    """It is harmless for as long as the process tries it."""
    client = live.tenant("grammar-slow")
    slow = structured(grammar=f'root ::= "b"{{300}} s\ns ::= {"s " * 10} | "a" | ""')
    with ThreadPoolExecutor(2) as threads:
        whole, streamed = (
            threads.submit(post, live, client, slow, min_tokens=700, max_tokens=700, stream=stream)
            for stream in (False, True)
        )
        send_chat(live.tenant("grammar-other"), "tiny")
        assert whole.result().status_code == 400, whole.result().text
        assert whole.result().json()["error"]["param"] == "structured_outputs"
        error = '"param":"structured_outputs"'
        assert error in streamed.result().text.replace(" ", ""), streamed.result().text[-2000:]
    send_chat(live.tenant("grammar-other"), "tiny")


def test_streams_go_on_while_a_slow_schema_is_tried(live: LiveServer) -> None:
    """vLLM compiles it beside the loop of all streams, which then stood still for up to 6 s."""
    hostile, other = live.tenant("grammar-hostile"), live.tenant("grammar-other")
    # The first is too large. The second is tried, and served where it compiles within the limit.
    for slow, statuses in ((nested(110, 30), {400}), (nested(14, 150), {200, 400})):
        times: list[float] = []
        with ThreadPoolExecutor(1) as threads:
            answer = None
            while not (answer and answer.done()):
                for _ in other.completions.create(
                    model="tiny", prompt="hello", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
                ):
                    times.append(time.monotonic())
                    answer = answer or threads.submit(post, live, hostile, as_format(slow))
            assert answer.result().status_code in statuses, answer.result().text
        assert max(later - earlier for earlier, later in pairwise(times)) < MAX_PAUSE_S


def test_other_tenants_grammars_do_not_wait_for_all_of_ones(live: LiveServer) -> None:
    hostile, other = live.tenant("grammar-many"), live.tenant("grammar-one")
    order: list[str] = []

    def ask(client: openai.OpenAI, name: str, body: dict[str, Any]) -> int:
        status = post(live, client, body).status_code
        order.append(name)
        return status

    post(live, other, ACCEPTED["regex"])
    with ThreadPoolExecutor(9) as threads:
        many = [
            threads.submit(ask, hostile, "many", structured(regex=f"((a{{1,300}}){{1,300}}){{1,30{number}}}"))
            for number in range(8)
        ]
        while not order:
            time.sleep(0.01)
        one = threads.submit(ask, other, "one", structured(regex="[cd]{3}"))
        assert one.result() == 200
        assert {answer.result() for answer in many} == {400}
    assert order.index("one") < len(order) - 3
