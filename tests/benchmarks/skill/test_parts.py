"""Tests of the skill benchmark's parts: changed rules, searches, intervals, prompts, and what adapters learn."""

from dataclasses import replace

import pytest

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.arms.changed_rules import change_one_code, move_task, shuffle_codes
from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, Writer
from looper.benchmarks.skill.arms.notes import NewerNote, NotesAmongText, write_other_text
from looper.benchmarks.skill.arms.retrieval import CHARACTERS_PER_TOKEN, RESERVED_TOKENS, ManyShot, OracleDemonstrations
from looper.benchmarks.skill.bootstrap import bootstrap_mean
from looper.benchmarks.skill.episode_search import TextSearch
from looper.benchmarks.skill.local_skills import choose_recipe, list_lessons
from looper.benchmarks.skill.plan import list_missing_adapters
from looper.benchmarks.skill.worlds import WORLDS, draw_tasks, record_experience
from looper.gym.policies import run_expert
from looper.gym.workplace import Workplace
from looper.gym.workplaces import BILLING, DISPATCH, OPS, WORKPLACES
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.recipe import Recipe

EXPERIENCE = record_experience(DISPATCH, 0, 40)
MEMORY = Memory(EXPERIENCE, Writer.RECORDED)
TASKS = draw_tasks(EXPERIENCE, 30)


def test_tasks_are_new_and_differ() -> None:
    recorded = {episode.task.request for episode in EXPERIENCE.episodes}
    requests = {task.request for task in TASKS}
    assert len(requests) == 30
    assert not requests & recorded


@pytest.mark.parametrize("world", WORKPLACES.values(), ids=WORKPLACES)
def test_a_changed_code_changes_the_right_calls_and_not_the_request(world: Workplace) -> None:
    experience = record_experience(world, 0, 5)
    for task in draw_tasks(experience, 10):
        changed, rule = change_one_code(task, 0)
        assert changed.request == task.request
        assert run_expert(changed).messages[2:] != run_expert(task).messages[2:]
        assert rule.new not in (rule.old, task.facts[rule.convention])
        assert run_expert(changed).is_strict_success
        recalled = NewerNote().recall(task, Memory(experience, Writer.RECORDED)).system
        assert f"{rule.word} is {rule.new} instead of {rule.old}" in recalled.splitlines()[-2]


def test_an_exception_to_a_rule_is_not_changed_with_it() -> None:
    task = TASKS[0]
    special = replace(task, facts={**task.facts, "dock": "base"})  # its dock is not the one of its goods
    assert {change_one_code(replace(special, id=str(number)), 0)[1].convention for number in range(20)} == {"lane"}
    assert move_task(special, shuffle_codes(DISPATCH)).facts["dock"] == "base"


def test_shuffled_codes_are_all_wrong_and_tools_stay() -> None:
    for world in (DISPATCH, BILLING, OPS):
        wrong = shuffle_codes(world)
        for name, convention in world.conventions.items():
            same = [wrong.conventions[name].codes[word] == code for word, code in convention.codes.items()]
            assert all(same) if name == "action" else not any(same)


def test_a_hybrid_search_forgives_other_forms_of_a_word() -> None:
    texts = ["we sail at dawn", "booking of docks", "the cook is out"]
    assert TextSearch(texts, hybrid=True).find("booked a dock", 1) == [1]
    assert TextSearch(texts, hybrid=False).find("nothing known", 3) == [0, 1, 2]
    assert TextSearch(texts, hybrid=False).find("cook", 1) == [2]


def test_an_interval_is_that_of_the_binomial_distribution() -> None:
    found = bootstrap_mean([1.0] * 50 + [0.0] * 50)
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    assert bootstrap_mean([1.0] * 50 + [0.0] * 50) == found
    assert bootstrap_mean([1.0] * 5) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("context_tokens", [2_048, 4_096, 8_192])
def test_many_shots_are_as_many_as_fit(context_tokens: int) -> None:
    shown = ManyShot(context_tokens).recall(TASKS[0], MEMORY).turns
    requests = sum(message["role"] == "user" for message in shown)
    assert 0 < requests <= len(EXPERIENCE.successes)
    assert len(to_text([{}, *shown])) <= (context_tokens - RESERVED_TOKENS) * CHARACTERS_PER_TOKEN
    assert requests == len(EXPERIENCE.successes) or context_tokens < 8_192


def test_perfect_demonstrations_have_the_words_of_the_task_and_other_records() -> None:
    task = TASKS[0]
    shown = OracleDemonstrations().recall(task, MEMORY).turns
    requests = [message["content"] for message in shown if message["role"] == "user"]
    assert len(set(requests)) == 4
    assert all(task.facts["goods"] in request and task.facts["urgency"] in request for request in requests)
    assert not any(task.facts["order"] in request for request in requests)


def test_notes_stand_where_the_position_test_puts_them() -> None:
    lines = len(write_other_text(5_600))
    for place, share in (("first", 0.0), ("middle", 0.5), ("last", 1.0)):
        text = NotesAmongText(place).recall(TASKS[0], MEMORY).system.splitlines()
        number = next(number for number, line in enumerate(text) if "dock by goods" in line)
        assert number / lines == pytest.approx(share, abs=0.05)


def test_each_adapter_is_taught_what_it_is_named_for() -> None:
    assert any(episode.notes for episode in list_lessons(Adapter.SKILL, EXPERIENCE))
    bare = list_lessons(Adapter.BARE_TAUGHT, EXPERIENCE)
    assert [episode.task for episode in bare] == [episode.task for episode in EXPERIENCE.episodes]
    assert not any(episode.notes for episode in bare)
    neutral = list_lessons(Adapter.NEUTRAL, EXPERIENCE)
    assert {episode.task.workplace.instance for episode in neutral} == {world.instance for world in WORLDS} - {
        DISPATCH.instance
    }
    assert len(neutral) >= len(bare)
    recipe = Recipe(contexts=ContextShares(with_notes=0.5))
    assert choose_recipe(Adapter.SKILL, recipe, 2) == recipe.model_copy(update={"seed": 2})
    assert choose_recipe(Adapter.BARE_TAUGHT, recipe, 2).contexts == ContextShares()


def test_worlds_of_one_tenant_have_no_skill_of_another() -> None:
    assert list_missing_adapters([DISPATCH, BILLING]).keys() == {Adapter.WRONG_TENANT}
    assert list_missing_adapters([DISPATCH, OPS]) == {}
