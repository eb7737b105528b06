"""Stages of synthesis ask the engines that run: from a worker of Ray, as Ray Data starts it."""

import json
from functools import partial

import ray

from looper.basemodel.node_copies import BaseModelSource
from looper.cluster.engine_model import QUEUE, open_cluster_model
from looper.jobs.synthesis.llm.model_factory import LanguageModel
from looper.jobs.synthesis.llm.request import LLMRequest
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.settings import ModelSettings
from tests.serve.live import LiveServer, find_processes


def ask(live: LiveServer, *requests: LLMRequest, **model: object) -> list[str | None]:
    synthesis = live.settings.synthesis.model_copy(update={"model": ModelSettings(**model)})  # type: ignore[arg-type]
    settings = live.settings.model_copy(update={"synthesis": synthesis})
    folder = live.base

    @ray.remote(num_cpus=0)
    def generate() -> list[str | None]:
        return open_cluster_model(settings, settings.base, BaseModelSource(folder)).generate(requests)

    answers: list[str | None] = ray.get(generate.remote())
    return answers


def make_request(text: str, max_tokens: int = 4) -> LLMRequest:
    return LLMRequest("Repeat it.", json.dumps({"said": text}), max_tokens)


def test_the_running_engines_are_asked_and_no_other_is_started(live: LiveServer) -> None:
    engines = {process.pid for process in find_processes("EngineCore")}
    answers = ask(live, *(make_request(f"text {number}") for number in range(12)))
    assert all(isinstance(answer, str) for answer in answers)
    assert ask(live, make_request("text 3")) == [answers[3]], "greedy, so the same again"
    assert {process.pid for process in find_processes("EngineCore")} == engines
    assert QUEUE not in live.catalog.list_tenants()


def test_a_prompt_that_is_too_long_has_no_response(live: LiveServer) -> None:
    long = make_request("long " * live.settings.serve.max_model_len)
    answer, none = ask(live, make_request("short"), long)
    assert answer is not None
    assert none is None


def test_an_endpoint_of_the_settings_comes_first(live: LiveServer) -> None:
    model = {"endpoint": "http://127.0.0.1:1/v1", "name": "judge", "max_attempts": 1, "timeout_s": 5.0}
    assert ask(live, make_request("text"), **model) == [None]


def test_responses_are_cached_by_the_revision_of_the_base_model(live: LiveServer) -> None:
    model = open_cluster_model(live.settings, live.settings.base, BaseModelSource(live.base))
    assert isinstance(model, LanguageModel)
    assert isinstance(model.generate, partial)
    assert model.name == read_base_revision(live.base)
