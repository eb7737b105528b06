"""Secrets do not get into logs: what is planted is found if it is there, and real requests leave none."""

from pathlib import Path

import httpx
import openai
import pytest

from looper.platform.client import Client
from looper.platform.domain.errors import Unauthorized
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.planted_secrets import FOLDERS, PLANTED, find_secrets, read_logs
from tests.serve.live import LiveServer

PROMPT, ANSWER = PLANTED["prompt"], PLANTED["answer"]


def test_a_secret_in_a_log_is_found(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker-1.out").write_text(f"asked: {PROMPT}\n")
    (tmp_path / "head.log.1").write_bytes(b"key looper_" + b"0" * 16 + b"_" + b"f" * 64)
    (tmp_path / "harmless.log").write_text("key 0123456789abcdef of acme")
    assert sorted(find_secrets(read_logs([tmp_path]))) == [
        f"{tmp_path}/head.log.1 has an API key",
        f"{tmp_path}/logs/worker-1.out has the planted prompt",
    ]


def test_printed_settings_hide_passwords() -> None:
    settings = load_settings(
        catalog={"url": "postgresql://looper:hunter2@db/looper"},
        store={"url": "s3://access:hunter2@skills/looper"},
        synthesis={"model": {"api_key": "hunter2"}},
    )
    assert "hunter2" not in f"{settings} {settings!r}"
    assert settings.catalog_url.endswith("hunter2@db/looper")


def test_requests_leave_no_secret_in_the_logs(live: LiveServer, tmp_path: Path) -> None:
    """Good requests, wrong ones, and each place where a secret could be taken for something that may be logged."""
    live.tenant("discreet")
    key = issue_key(live.catalog, "discreet")
    headers = {"authorization": f"Bearer {key}"}
    message = {"role": "user", "content": PROMPT}
    with live.client(key) as client:
        client.chat.completions.create(model=live.settings.base, messages=[message], max_tokens=2)  # type: ignore[list-item]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="discreet/nothing", messages=[message])  # type: ignore[list-item]
    with httpx.Client(base_url=live.url, headers=headers, timeout=60) as http:
        good = {"model": live.settings.base, "messages": [message], "max_tokens": 2}
        for wrong in ({"stop": {"not": ANSWER}}, {"temperature": ANSWER}, {"messages": [PROMPT]}, {PROMPT: 1}):
            assert http.post("/v1/chat/completions", json=good | wrong).status_code == 400
        assert http.post("/v1/chat/completions", content=f'{{"messages": "{PROMPT}'.encode()).status_code == 400
        assert http.get(f"/v1/models?after={PROMPT}").status_code == 400
        unknown = {"authorization": f"Bearer {PLANTED['unknown key']}"}
        assert http.get("/v1/models", headers=unknown).status_code == 401
        assert http.post("/api/v1/consolidations", json={"instances": [PROMPT]}).status_code == 400
    with Client(live.url, PLANTED["unknown key"]) as client, pytest.raises(Unauthorized):
        client.instances()
    broken = tmp_path / "monday.jsonl"
    broken.write_text(f'{{"messages": [{{"role": "{ANSWER}", "content": "{PROMPT}"}}], "success": true}}\n')
    with Client(live.url, key) as client:
        client.ingest("desk", broken)
    assert FOLDERS, "Ray's logs of this session are searched"
    assert find_secrets(read_logs(FOLDERS)) == []
