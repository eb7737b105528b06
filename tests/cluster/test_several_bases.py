"""Two base models of different architectures, served and trained by one ``looper up``; a skill moves between them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from looper.cluster.control import stop_cluster
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from tests.architectures import architecture_base
from tests.gate import LENIENT_GATE
from tests.jobs.episodes import RECIPE, episode, ingest
from tests.tiny import tiny_base

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

DESK, SHOP = InstanceName("acme", "desk"), InstanceName("acme", "shop")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    llama, qwen = tiny_base(tmp_path / "llama"), architecture_base(tmp_path / "qwen", "Qwen2")
    settings = load_settings(
        home=tmp_path / "home",
        base=str(llama),
        serve={"port": 0, "kv_cache_gib": 0.25},
        bases=[{"base": str(qwen), "serve": {"kv_cache_gib": 0.25, "max_model_len": 1024}}],
        consolidation={"recipe": RECIPE.model_dump(mode="json"), "gate": LENIENT_GATE},
    )
    yield settings
    stop_cluster(settings)


@pytest.fixture
def looper(settings: Settings, tmp_path: Path) -> Callable[..., str]:
    file = tmp_path / "looper.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    environment = {
        "LOOPER_CONFIG": str(file),
        "XDG_CACHE_HOME": str(settings.home / "cache"),
        "VLLM_CACHE_ROOT": str(Path("~/.cache/vllm").expanduser()),
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "looper", *arguments]
        done = subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_a_skill_moves_between_two_base_models_that_are_served_at_once(
    settings: Settings, looper: Callable[..., str]
) -> None:
    llama, qwen = settings.base_names
    said = looper("up")
    assert f"each engine for ranks up to 16 on {llama}: " in said
    assert f"each engine for ranks up to 16 on {qwen}: " in said
    url = json.loads(looper("up", "--json"))["url"]
    key = json.loads(looper("tenant", "create", "acme", "--json"))["key"]
    looper("instance", "create", str(SHOP), "--base", qwen)
    with closing(Catalog.open(settings)) as catalog:
        for instance in (DESK, SHOP):
            ingest(catalog, ObjectStore.open(settings), instance, [episode(task) for task in range(14)], "b0")
    jobs = json.loads(looper("consolidate", str(DESK), str(SHOP), "--wait", "--json"))
    assert [(job["state"], job["base"]) for job in jobs] == [("published", llama), ("published", qwen)]
    first, of_shop = (job["digest"] for job in jobs)

    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:

        def ask(model: str) -> tuple[str | None, Any]:
            question = {"model": model, "messages": [{"role": "user", "content": "Book day 3."}], "max_tokens": 24}
            response = client.post("/v1/chat/completions", json=question | {"temperature": 0})
            assert response.is_success, response.text
            return response.headers.get("x-looper-version"), response.json()["choices"][0]["message"]

        listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert listed == [llama, qwen, str(DESK), str(SHOP)]
        assert ask(llama)[1] != ask(qwen)[1], "random weights of two models say different things"
        on_llama, on_qwen = ask(str(DESK)), ask(str(SHOP))
        assert (on_llama[0], on_qwen[0]) == (first, of_shop)

        (moved,) = json.loads(looper("move", str(DESK), "--base", qwen, "--wait", "--json"))
        assert (moved["state"], moved["base"], moved["parent"]) == ("published", qwen, first), moved["reason"]
        assert ask(str(DESK))[0] == moved["digest"]
        assert ask(f"{DESK}@{first}") == on_llama, "the version before has the engines of its base model"
        assert f"base model {qwen}" in looper("instance", "show", str(DESK))

        assert first in looper("skills", "rollback", str(DESK))
        assert ask(str(DESK)) == on_llama
        looper("skills", "promote", str(DESK), moved["digest"], "--channel", "canary", "--share", "0.5")
        assert ask(f"{DESK}@canary")[0] == moved["digest"]
    trainers = [line for line in looper("status").splitlines() if line.startswith("trainer for")]
    assert {line.split()[2] for line in trainers} == {llama, qwen}
    assert "Looper is down" in looper("down")
