"""The adapter cache between tenants, with the real download process."""

from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx

from looper.platform.domain.names import InstanceName
from tests.serve.live import HELLO, LiveServer, find_processes, send_chat

ADAPTERS = 8
"""As many as a tenant has requests at once. The engine has memory for five and slots for four."""


def test_one_request_does_not_wait_for_all_adapters_of_another_tenant(live: LiveServer) -> None:
    many, one = live.tenant("many-adapters"), live.tenant("one-adapter")
    for number in range(ADAPTERS):
        live.publish(InstanceName("many-adapters", f"agent-{number}"), number)
    live.publish(InstanceName("one-adapter", "agent"), ADAPTERS)
    with ThreadPoolExecutor(ADAPTERS) as threads:
        names = [f"many-adapters/agent-{number}" for number in range(ADAPTERS)]
        answers = [threads.submit(send_chat, many, name, max_tokens=48) for name in names]
        next(as_completed(answers)).result()  # all have arrived by now, and more than the engine has places for wait
        before = sum(answer.done() for answer in answers)
        send_chat(one, "one-adapter/agent")
        meanwhile = sum(answer.done() for answer in answers) - before
    assert all(answer.result()[0] for answer in answers)
    assert meanwhile <= ADAPTERS // 2


def test_the_time_that_a_request_allows_runs_while_its_adapter_loads(live: LiveServer) -> None:
    client = live.tenant("in-a-hurry")
    live.publish(InstanceName("in-a-hurry", "agent"), 1)
    [downloader] = find_processes("ray::AdapterDownloader")
    downloader.suspend()
    try:
        response = httpx.post(
            f"{live.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {client.api_key}", "x-looper-within-s": "0.5"},
            json={"model": "in-a-hurry/agent", "messages": HELLO, "max_tokens": 2},
            timeout=60,
        )
    finally:
        downloader.resume()
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    assert send_chat(client, "in-a-hurry/agent")[0]
