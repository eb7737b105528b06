"""Each memory system learns and helps as its paper says, with a model that reads prompts and writes what is given."""

from collections.abc import Callable, Iterator

import openai
import pytest

from looper.benchmarks.skill.arms.expel import Expel
from looper.benchmarks.skill.arms.file_memory import FileMemory
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.arms.paging_memory import SEARCH, PagingMemory
from looper.benchmarks.skill.arms.playbook import Playbook
from looper.benchmarks.skill.arms.reflexion import MAX_REFLECTIONS, Reflexion
from looper.benchmarks.skill.arms.registry import list_arms, list_quick_arms
from looper.benchmarks.skill.arms.rule_edits import MAX_RULES, VotedRule, apply_edits
from looper.benchmarks.skill.arms.workflows import WorkflowMemory, split_workflows
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import TaskPlayer
from looper.benchmarks.skill.worlds import draw_tasks, record_experience
from looper.gym.episode import EpisodeResult
from looper.gym.notes import write_notes
from looper.gym.workplaces import DISPATCH
from tests.benchmarks.skill.reading_endpoint import ReadingModels, serve_models

EXPERIENCE = record_experience(DISPATCH, 0, 40)
TASK = draw_tasks(EXPERIENCE, 1)[0]
ALL_RULES = write_notes(DISPATCH)
FAILURES = sum(not episode.result.success for episode in EXPERIENCE.episodes)


@pytest.fixture
def models() -> ReadingModels:
    return ReadingModels(DISPATCH)


@pytest.fixture
def chat(models: ReadingModels) -> Iterator[MeteredChat]:
    with serve_models(models, ["small"]) as url:
        yield MeteredChat(openai.OpenAI(base_url=url, api_key="none"), "small")


def play(system: MemorySystem, entries: tuple[str, ...], chat: MeteredChat, writer: Writer) -> EpisodeResult:
    return system.play(TASK, Memory(EXPERIENCE, writer, entries), TaskPlayer(chat, needs_format=True))


@pytest.mark.parametrize("build", [Reflexion, Expel, WorkflowMemory, PagingMemory, FileMemory, Playbook])
def test_a_perfect_memory_helps_a_model_that_reads(build: Callable[[], MemorySystem], chat: MeteredChat) -> None:
    system = build()
    entries = system.learn(EXPERIENCE, Writer.ORACLE, chat)
    assert chat.usage.requests == 0
    assert play(system, entries, chat, Writer.ORACLE).is_strict_success


@pytest.mark.parametrize("build", [Reflexion, Expel, WorkflowMemory, PagingMemory, FileMemory, Playbook])
def test_a_model_that_writes_nothing_stops_nothing(build: Callable[[], MemorySystem], chat: MeteredChat) -> None:
    system = build()
    result = play(system, system.learn(EXPERIENCE, Writer.MODEL, chat), chat, Writer.MODEL)
    assert result.turns
    assert result.is_strict_success is isinstance(system, Expel)  # retrieved episodes stand beside its empty rules


def test_reflexion_tries_again_until_it_is_solved(models: ReadingModels, chat: MeteredChat) -> None:
    models.written = ["I was careless.", ALL_RULES, "never asked for"]
    assert play(Reflexion(), (), chat, Writer.MODEL).is_strict_success
    assert models.written == ["never asked for"]
    last = models.prompts[-1][1][0]["content"]
    assert "I was careless." in last
    assert ALL_RULES in last


def test_reflexion_gives_up_after_three_reflections(models: ReadingModels, chat: MeteredChat) -> None:
    models.written = [f"reflection {number}" for number in range(9)]
    assert not play(Reflexion(), (), chat, Writer.MODEL).success
    assert len(models.written) == 9 - MAX_REFLECTIONS
    assert chat.usage.requests == 2 * MAX_REFLECTIONS + 1


def test_expel_compares_failures_with_successes_and_votes(models: ReadingModels, chat: MeteredChat) -> None:
    models.written = ["ADD: first\nADD: second", "AGREE 2\nREMOVE 1", "REMOVE 1"]
    rules = Expel().learn(EXPERIENCE, Writer.MODEL, chat)
    assert rules == ("second",)
    told = [prompt[-1]["content"] for _, prompt in models.prompts]
    assert FAILURES > 0
    assert sum("Failed:" in text for text in told) == FAILURES
    assert "1. first (2 votes)" in told[1]


def test_workflows_that_do_not_solve_a_task_are_dropped(models: ReadingModels, chat: MeteredChat) -> None:
    good, bad = f"Workflow: ship\n{ALL_RULES}", "Workflow: ship\nbook <order>"
    models.written = [f"Here they are.\n{bad}\n{good}"]
    assert WorkflowMemory().learn(EXPERIENCE, Writer.MODEL, chat) == (good,)
    assert split_workflows("Workflow without calls") == []


def test_paging_memory_searches_its_archive_unseen_by_the_world(chat: MeteredChat) -> None:
    asked: list[list[str]] = []

    def answer(model: str, messages: list[dict[str, object]], tools: list[dict[str, object]]) -> dict[str, object]:
        asked.append([str(message["role"]) for message in messages])
        if messages[-1]["role"] == "user":
            call = {"name": SEARCH, "arguments": '{"query": "Ship order, fish"}'}
            return {"role": "assistant", "tool_calls": [{"id": "own", "type": "function", "function": call}]}
        assert "call: book" in str(messages[-1]["content"])
        return {"role": "assistant", "content": "done"}

    models = ReadingModels(DISPATCH)
    models.answer = answer  # type: ignore[method-assign]
    with serve_models(models, ["small"]) as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        result = play(PagingMemory(), ("",), MeteredChat(client, "small"), Writer.MODEL)
    assert asked == [["system", "user"], ["system", "user", "assistant", "tool"]]
    assert [message["role"] for message in result.messages] == ["system", "user", "assistant"]
    assert len(result.turns) == 1


def test_the_core_memory_is_written_page_by_page(models: ReadingModels, chat: MeteredChat) -> None:
    models.written = ["one", "two", "three", "four", "five"]
    assert PagingMemory().learn(EXPERIENCE, Writer.MODEL, chat) == ("five",)
    assert "of this work place:\nfour\n" in models.prompts[-1][1][-1]["content"]


def test_the_file_memory_finds_entries_of_similar_requests(models: ReadingModels, chat: MeteredChat) -> None:
    entries = FileMemory().learn(EXPERIENCE, Writer.ORACLE, chat)
    recalled = FileMemory().recall(TASK, Memory(EXPERIENCE, Writer.ORACLE, entries)).system
    assert recalled.count("user: Ship order") == 4
    assert recalled.count(TASK.facts["goods"]) >= 4


def test_the_playbook_is_edited_and_never_written_anew(models: ReadingModels, chat: MeteredChat) -> None:
    models.written = ["insight", "ADD: open first", "insight", "AGREE 1", "insight", "The playbook is empty."]
    assert Playbook().learn(EXPERIENCE, Writer.MODEL, chat) == ("[1] helpful=1 :: open first",)


def test_edits_that_make_no_sense_are_ignored() -> None:
    rules = [VotedRule("one"), VotedRule("two", 1)]
    assert apply_edits(rules, "AGREE 9\nEDIT x: y\nADD:\nADD: one\nnonsense") == rules
    assert apply_edits(rules, "REMOVE 2\nEDIT 1: better") == [VotedRule("better", 3)]
    many = "\n".join(f"ADD: rule {number}" for number in range(MAX_RULES + 5))
    assert len(apply_edits(rules, many)) == MAX_RULES


def test_arms_have_names_of_their_own_and_long_ones_are_left_out() -> None:
    arms, left_out = list_arms(8_192)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names)
    assert {"skill + expel (model)", "neutral adapter + notes", "another tenant's skill"} <= set(names)
    assert {arm.name for arm in list_quick_arms()} <= set(names)
    assert "8,192" in left_out["notes middle of 8,000 tokens"]
    assert "base + notes last of 8,000 tokens" in [arm.name for arm in list_arms(16_384)[0]]
