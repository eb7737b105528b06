"""Tests of what each arm is asked: who has the policy, whose episodes are retrieved, and which tasks are held out."""

import json
from pathlib import Path

import pytest

from looper.benchmarks.real_tenants.arms import MAX_EPISODES, ArmPrompts, TenantArm
from looper.benchmarks.real_tenants.tenants import FOLDS, Tenant, count_actions, load_tenants, split_tasks
from looper.jobs.synthesis.contexts.episodes import EPISODES_START
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example
from looper.platform.domain.recipe import Recipe
from tests.benchmarks.real_tenants.written_tenants import POLICIES, TASKS, WORDS, write_tenants


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tenant]:
    return {each.name: each for each in load_tenants(write_tenants(tmp_path_factory.mktemp("tenants")))}


def make_prompts(tenant: Tenant, seed: int = 0, tokens_per_text: int = 1) -> ArmPrompts:
    return ArmPrompts(split_tasks(tenant, seed), lambda call: f"CALL {call.name}", lambda text: tokens_per_text)


def text_of(example: Example) -> str:
    return "\n".join(turn.content for turn in example.turns)


def test_no_task_is_trained_and_held_out_and_folds_cover_all_tasks_once(tenants: dict[str, Tenant]) -> None:
    held_out: list[str] = []
    for seed in range(FOLDS):
        split = split_tasks(tenants["bakery"], seed)
        tasks = {example.task_id for example in split.holdout}
        trained = {example.task_id for example in split.train}
        assert not tasks & trained
        assert trained == {example.task_id for example in split.memory}
        assert len(tasks) == TASKS // FOLDS
        held_out += tasks
    assert len(held_out) == len(set(held_out)) == TASKS
    assert split_tasks(tenants["bakery"], FOLDS) == split_tasks(tenants["bakery"], 0)


def test_failures_are_neither_trained_nor_asked(tenants: dict[str, Tenant]) -> None:
    tenant = tenants["garage"]
    assert tenant.trajectories == TASKS + 1
    assert not any("failed" in example.task_id for example in (*tenant.learned, *tenant.recorded))


def test_the_tool_list_is_made_of_all_calls(tenants: dict[str, Tenant]) -> None:
    tools = json.loads(tenants["bakery"].recorded[0].tools or "")
    found = {each["function"]["name"]: list(each["function"]["parameters"]["properties"]) for each in tools}
    assert found == {"burn_order": ["number"], "close_order": ["number", "word"], "find_order": ["number"]}
    assert tenants["silent"].recorded[0].tools is None
    assert not any(map(count_actions, tenants["silent"].recorded))


@pytest.mark.parametrize("arm", TenantArm)
def test_only_arms_with_the_policy_have_it(tenants: dict[str, Tenant], arm: TenantArm) -> None:
    for tenant in POLICIES:
        asked = make_prompts(tenants[tenant]).asked_examples(arm)
        assert asked
        for example in asked:
            assert (POLICIES[tenant] in text_of(example)) == (arm in (TenantArm.POLICY, TenantArm.BOTH))
            assert [turn.role for turn in example.turns].count("system") == 1


@pytest.mark.parametrize("arm", TenantArm)
def test_only_arms_with_retrieval_have_episodes_and_none_is_of_a_held_out_task(
    tenants: dict[str, Tenant], arm: TenantArm
) -> None:
    for seed in range(FOLDS):
        split = split_tasks(tenants["bakery"], seed)
        held_out = {WORDS[int(example.task_id.rpartition("-")[2])] for example in split.holdout}
        for example in make_prompts(tenants["bakery"], seed).asked_examples(arm):
            system = example.turns[0].content
            assert (EPISODES_START in system) == (arm in (TenantArm.RETRIEVAL, TenantArm.BOTH))
            shown = {word for word in WORDS if f"the {word} order" in system}
            assert len(shown) == (MAX_EPISODES if EPISODES_START in system else 0)
            assert not shown & held_out


def test_all_arms_differ_only_in_the_system_turn(tenants: dict[str, Tenant]) -> None:
    prompts = make_prompts(tenants["garage"])
    asked = [prompts.asked_examples(arm) for arm in TenantArm]
    for same in zip(*asked, strict=True):
        assert len({example.turns[1:] for example in same}) == 1
        assert len({example.tools for example in same}) == 1
        assert len({example.turns[0].content.partition("\n")[0] for example in same}) == 1
    assert asked[0] == asked[3]  # the skill is asked what the bare base is asked


def test_only_actions_are_evaluated(tenants: dict[str, Tenant]) -> None:
    for example in make_prompts(tenants["garage"]).asked_examples(TenantArm.BARE):
        assert [bool(turn.tool_calls) for turn in example.turns if turn.weight > 0] == [True, True]


def test_the_skill_is_trained_on_bare_prompts_of_training_tasks(tenants: dict[str, Tenant]) -> None:
    prompts, split = make_prompts(tenants["bakery"]), split_tasks(tenants["bakery"], 0)
    trained = prompts.training_examples(Recipe(contexts=ContextShares()))
    assert {example.task_id for example in trained} == {example.task_id for example in split.train}
    for example in trained:
        assert POLICIES["bakery"] not in text_of(example)
        assert EPISODES_START not in text_of(example)
        assert any(turn.weight > 0 and not turn.tool_calls for turn in example.turns)  # answers are learned too
    line = prompts.asked_examples(TenantArm.SKILL)[0].turns[0]
    assert {example.turns[0].content for example in trained} == {line.content}


def test_contexts_of_the_recipe_are_trained(tenants: dict[str, Tenant]) -> None:
    prompts, split = make_prompts(tenants["bakery"]), split_tasks(tenants["bakery"], 0)
    trained = prompts.training_examples(Recipe(contexts=ContextShares(with_episodes=1)))
    assert len(trained) == 2 * len(split.train)
    held_out = {WORDS[int(example.task_id.rpartition("-")[2])] for example in split.holdout}
    assert not any(f"the {word} order" in text_of(example) for word in held_out for example in trained)


def test_episodes_take_no_more_than_their_share(tenants: dict[str, Tenant]) -> None:
    example = split_tasks(tenants["bakery"], 0).holdout[0]
    assert make_prompts(tenants["bakery"], tokens_per_text=2560).retrieve(example)  # as long as policy and share allow
    assert not make_prompts(tenants["bakery"], tokens_per_text=2561).retrieve(example)


def test_a_folder_without_tenants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="one folder for each tenant"):
        load_tenants(tmp_path)
