"""The whole loop as tenants see it: they upload trajectories over HTTP and use a skill, through all real parts.

Ray Data, Ray Train, DeepSpeed, Ray Serve and vLLM are real. Only the base model is a tiny random one, which learns
nothing useful, so the test asserts that the loop works and not that the skill is good.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from looper.cluster.run_until_complete import run_until_complete
from looper.gym.episode import Message, run_episode
from looper.gym.generate import record_episodes
from looper.gym.workplaces import WORKPLACES
from looper.platform.adapters import fetch
from looper.platform.client import Client
from looper.platform.domain.errors import NotFound
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from looper.platform.tenancy import issue_key
from tests.private_files import find_open_files
from tests.serve.live import LiveServer

RECIPE = Recipe(rank=8, alpha=16, learning_rate=5e-3, epochs=1, batch_size=4, max_seq_length=512)


def write_trajectories(folder: Path, instance: str, tasks: int) -> Path:
    file = folder / f"{instance.replace('/', '-')}.jsonl"
    file.write_bytes(
        b"".join(episode.to_jsonl() for episode in record_episodes(WORKPLACES[instance], seed=7, tasks=tasks))
    )
    return file


def next_message(client: openai.OpenAI, model: str, messages: list[Message], tools: list[Message]) -> Message:
    history: Any = messages
    schemas: Any = tools
    answer = client.chat.completions.create(
        model=model, messages=history, tools=schemas, max_tokens=24, temperature=0.0
    )
    assert answer.model == model
    return answer.choices[0].message.model_dump(exclude_none=True)


def test_uploaded_trajectories_become_skills_that_answer_by_name(live: LiveServer, tmp_path: Path) -> None:
    names = list(WORKPLACES)[:3]
    tenants = sorted({name.partition("/")[0] for name in names})
    keys = {}
    for tenant in tenants:
        live.catalog.create_tenant(tenant)
        keys[tenant] = issue_key(live.catalog, tenant)

    ids = []
    for name in names:
        tenant, _, instance = name.partition("/")
        with Client(live.url, keys[tenant]) as client:
            (file,) = client.ingest(instance, write_trajectories(tmp_path, name, tasks=12)).files
            assert (file.kept, file.rejected) == (12, 0)
            ids += [job.id for job in client.consolidate([instance], recipe=RECIPE)]

    run_until_complete(live.catalog, live.store, live.settings, {live.settings.base: live.base}, ids)
    jobs = [live.catalog.get_consolidation(id) for id in ids]
    assert {str(job.instance): job.state for job in jobs} == dict.fromkeys(names, ConsolidationState.PUBLISHED)

    answers = {}
    for job in jobs:
        tenant, model = job.instance.tenant, str(job.instance)
        with Client(live.url, keys[tenant]) as client:
            skill = client.skill(job.instance.instance)
            assert (skill.channels, [one.digest for one in skill.versions]) == ({"prod": job.digest}, [job.digest])
        manifest = fetch(live.store, tenant, job.digest or "").read_manifest()
        assert (manifest.instance, manifest.training_data) == (model, job.batches)

        task = WORKPLACES[model].task("never-seen-001", seed=7)
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key=keys[tenant], timeout=120) as api:
            answers[model] = run_episode(task, partial(next_message, api, model)).messages[2]["content"]
            listed = {one.id for one in api.models.list().data}
            assert listed == {live.settings.base, *(name for name in names if name.startswith(f"{tenant}/"))}
    assert len(answers) == 3

    # After a real job, nobody else on the machine can read anything of it.
    opened = find_open_files(live.settings.home)
    # Ray's own files of a training run are in a closed folder, and have the umask of this process.
    assert [path for path in opened if not re.search("/training-runs/[^/]+/", path)] == []

    # The API key of one tenant gives no access to another tenant's skill.
    tenant = names[0].partition("/")[0]
    other_skill = next(name for name in names if name.partition("/")[0] != tenant)
    own_api = openai.OpenAI(base_url=f"{live.url}/v1", api_key=keys[tenant])
    with own_api, pytest.raises(openai.NotFoundError):
        own_api.chat.completions.create(model=other_skill, messages=[{"role": "user", "content": "hello"}])
    with Client(live.url, keys[tenant]) as client, pytest.raises(NotFound):
        client.skill(other_skill.partition("/")[2])


def test_the_control_plane_has_an_openapi_document(live: LiveServer) -> None:
    assert "/api/v1/consolidations" in httpx.get(f"{live.url}/openapi.json").json()["paths"]
