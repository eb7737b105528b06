"""The gym: tasks are reproducible, the expert always succeeds, and only the right final state is a success."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from looper.gym import WORKPLACES, Convention, Message, Noise, Workplace, expert_agent, record_episodes, run_episode
from looper.gym.generate import TASK_COUNT, write_examples
from looper.gym.hard_workplaces import HARD_WORKPLACES
from looper.gym.policies import possible_noise, run_noisy
from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplaces import DISPATCH, OPS

EXAMPLES = Path(__file__).parents[2] / "examples"

ALL_WORKPLACES = WORKPLACES | HARD_WORKPLACES

every_workplace = pytest.mark.parametrize("workplace", ALL_WORKPLACES.values(), ids=ALL_WORKPLACES)


def call(name: str, arguments: str, id: str = "call_0") -> Message:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": id, "type": "function", "function": function}]}


def observations(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "tool"]


def test_the_gym_has_two_tenants_with_four_instances() -> None:
    assert len(WORKPLACES) == 4
    assert len({name.partition("/")[0] for name in WORKPLACES}) == 2


def test_committed_examples_are_byte_for_byte_what_the_gym_generates(tmp_path: Path) -> None:
    files = write_examples(tmp_path, seed=0)
    for file in files:
        assert file.read_bytes() == (EXAMPLES / file.relative_to(tmp_path)).read_bytes()
    assert sum(file.stat().st_size for file in files) < 300_000


@every_workplace
def test_examples_are_mostly_but_not_only_successes(workplace: Workplace) -> None:
    recorded = list(record_episodes(workplace, seed=0))
    successes = [episode for episode in recorded if episode.result.success]
    assert 0.8 * TASK_COUNT < len(successes) < TASK_COUNT
    assert any(episode.noise for episode in successes)
    assert all(episode.result.success for episode in recorded if episode.noise is None)


def test_a_trajectory_contains_the_outcome_but_not_the_noise() -> None:
    for episode in record_episodes(DISPATCH, seed=0):
        line = json.loads(episode.to_jsonl())
        assert line.keys() == {"task_id", "messages", "tools", "success", "reward"}
        assert line["reward"] == float(line["success"])


@every_workplace
def test_a_task_depends_only_on_its_id_and_the_seed(workplace: Workplace) -> None:
    first, second = workplace.task_ids(2)
    assert workplace.task(first, 0) == workplace.task(first, 0)
    assert workplace.task(first, 0).facts != workplace.task(second, 0).facts
    assert workplace.task(first, 0).facts != workplace.task(first, 1).facts


@every_workplace
def test_no_two_tasks_have_the_same_request(workplace: Workplace) -> None:
    requests = [workplace.task(task_id, 0).request for task_id in workplace.task_ids(TASK_COUNT)]
    assert len(set(requests)) == len(requests)


@every_workplace
def test_the_expert_solves_every_task_with_every_turn_correct(workplace: Workplace) -> None:
    for task_id in workplace.task_ids(100):
        task = workplace.task(task_id, 1)
        result = run_episode(task, expert_agent(task))
        assert result.success
        assert result.accuracy == 1.0


@every_workplace
def test_the_expert_survives_an_outage_at_any_call(workplace: Workplace) -> None:
    for outage in range(4):
        task = replace(workplace.task("t", 0), obstacles=workplace.obstacles, outage=outage)
        result = run_episode(task, expert_agent(task))
        assert result.success
        assert "E_TIMEOUT" in observations(result.messages)


@every_workplace
def test_every_call_of_the_procedure_matches_a_tool_and_its_parameters(workplace: Workplace) -> None:
    tools = {tool.name: set(tool.parameters) for tool in workplace.tools}
    for task_id in workplace.task_ids(30):
        task = workplace.task(task_id, 0)
        for step in (*workplace.procedure, *(obstacle.remedy for obstacle in workplace.obstacles)):
            made = step.to_call(task.facts)
            assert tools[made.tool] == set(made.arguments)


@every_workplace
@pytest.mark.parametrize("noise", Noise)
def test_noise_lowers_accuracy_and_only_some_kinds_fail(workplace: Workplace, noise: Noise) -> None:
    tasks = [workplace.task(task_id, 0) for task_id in workplace.task_ids(60)]
    tasks = [task for task in tasks if noise in possible_noise(task)]
    results = [run_noisy(task, noise, Random(task.id)) for task in tasks]
    if noise is Noise.TRANSIENT:
        assert all("E_TIMEOUT" in observations(result.messages) for result in results)
    else:
        assert all(result.accuracy < 1.0 for result in results)
    expected = {True, False} if noise in (Noise.WRONG_ARGUMENT, Noise.LOOP) else {True}
    assert {result.success for result in results} == (expected if results else set())


def test_lucky_noise_needs_a_read_that_can_be_skipped() -> None:
    unobstructed = replace(DISPATCH.task("t", 0), obstacles=())
    assert Noise.LUCKY in possible_noise(unobstructed)
    assert Noise.LUCKY not in possible_noise(replace(unobstructed, obstacles=DISPATCH.obstacles))
    assert Noise.LUCKY not in possible_noise(OPS.task("t", 0))


@every_workplace
def test_an_agent_without_tool_calls_fails(workplace: Workplace) -> None:
    result = run_episode(workplace.task("t", 0), lambda messages, tools: {"role": "assistant", "content": "Sure!"})
    assert not result.success
    assert result.accuracy == 0.0
    assert len(result.turns) == 1


def test_an_agent_that_never_stops_runs_out_of_turns() -> None:
    result = run_episode(DISPATCH.task("t", 0), lambda messages, tools: call("open", '{"ref": "HD-1"}'), max_turns=3)
    assert not result.success
    assert observations(result.messages) == ["E_UNKNOWN"] * 3


@pytest.mark.parametrize(
    ("name", "arguments", "observation"),
    [
        ("close", '{"ref": "HD-1"}', "E_TOOL"),
        ("open", '{"ref": "HD-1", "now": "yes"}', "E_ARGS"),
        ("open", '{"ref": 1}', "E_ARGS"),
        ("open", "{}", "E_ARGS"),
        ("open", '["HD-1"]', "E_ARGS"),
        ("open", '{"ref": "HD', "E_ARGS"),
        ("open", '{"ref": "HD-1"}', "E_UNKNOWN"),
        ("unlock", '{"ref": "HD-1", "reason": "R7"}', "E_STATE"),
    ],
)
def test_a_bad_call_gets_an_error_and_the_episode_goes_on(name: str, arguments: str, observation: str) -> None:
    answers = iter([call(name, arguments), {"role": "assistant", "content": "done"}])
    result = run_episode(DISPATCH.task("t", 0), lambda messages, tools: next(answers))
    assert observations(result.messages) == [observation]
    assert not result.success


def test_all_calls_of_one_turn_are_answered() -> None:
    task = replace(DISPATCH.task("t", 0), obstacles=())
    calls = [call(step.tool, json.dumps(step.to_call(task.facts).arguments)) for step in DISPATCH.procedure]
    both = calls[0] | {"tool_calls": [made["tool_calls"][0] | {"id": str(i)} for i, made in enumerate(calls)]}
    answers = iter([both, {"role": "assistant", "content": "done"}])
    result = run_episode(task, lambda messages, tools: next(answers))
    assert observations(result.messages) == ["opened", "booked"]
    assert result.success


def test_a_write_with_a_wrong_code_is_accepted_but_not_a_solution() -> None:
    task = replace(DISPATCH.task("t", 0), obstacles=())
    simulation = WorkplaceSimulator(task)
    book = DISPATCH.procedure[1].to_call(task.facts)
    assert simulation.call_tool(book.tool, {**book.arguments, "dock": "Z0"}) == "booked"
    assert not simulation.is_solved
    assert simulation.expected_call() == book


def test_a_step_out_of_order_and_a_wrong_remedy_are_refused() -> None:
    task = replace(OPS.task("t", 0), obstacles=OPS.obstacles)
    silence, act = (step.to_call(task.facts) for step in OPS.procedure)
    remedy = OPS.obstacles[0].remedy.to_call(task.facts)
    simulation = WorkplaceSimulator(task)
    assert simulation.call_tool(act.tool, act.arguments) == "E_ORDER"
    assert simulation.call_tool(silence.tool, silence.arguments) == "silenced"
    assert simulation.call_tool(act.tool, act.arguments) == "E_QUORUM"
    assert simulation.call_tool(remedy.tool, {**remedy.arguments, "token": "T1"}) == "E_REFUSED"
    assert simulation.expected_call() == remedy
    assert simulation.call_tool(remedy.tool, remedy.arguments) == "elected"
    assert simulation.call_tool(act.tool, act.arguments) == "healthy"
    assert simulation.is_solved


def test_a_call_of_the_wrong_tool_cannot_be_undone() -> None:
    task = replace(OPS.task("t", 0), obstacles=())
    silence, act = (step.to_call(task.facts) for step in OPS.procedure)
    other = "rollback" if act.tool == "restart" else "restart"
    simulation = WorkplaceSimulator(task)
    simulation.call_tool(silence.tool, silence.arguments)
    simulation.call_tool(other, act.arguments)
    simulation.call_tool(act.tool, act.arguments)
    assert not simulation.is_solved


def test_replacing_a_convention_changes_the_goal_of_its_tasks() -> None:
    lanes = Convention("urgency", {"tonight": "gold", "next year": "slow"})
    changed = replace(DISPATCH, conventions={**DISPATCH.conventions, "lane": lanes})
    task = changed.task("t", 0)
    assert task.goal["book"]["lane"] in {"gold", "slow"}
    assert run_episode(task, expert_agent(task)).success
