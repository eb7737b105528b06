"""The hard workplaces: what makes each one hard is really needed, and the notes say all of it."""

from collections import Counter
from dataclasses import replace

import pytest

from looper.gym.episode import Agent, EpisodeResult, Message, assistant_message, run_episode
from looper.gym.generate import record_episodes
from looper.gym.hard_workplaces import CALL_FORMAT, FREIGHT, HARD_WORKPLACES
from looper.gym.policies import Noise, expert_agent, possible_failures, run_expert
from looper.gym.simulator import WorkplaceSimulator
from looper.gym.workplace import Question, Workplace, WorkplaceCall, WorkplaceTask
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.contexts.episodes import EpisodeIndex
from looper.platform.domain.example import Example, Turn
from tests.gym.notes_reader import notes_reader

every_hard_workplace = pytest.mark.parametrize("workplace", HARD_WORKPLACES.values(), ids=HARD_WORKPLACES)


def draw_tasks(workplace: Workplace, count: int = 100) -> list[WorkplaceTask]:
    return [workplace.task(task_id, 0) for task_id in workplace.task_ids(count)]


def count_calls(result: EpisodeResult) -> int:
    return sum(len(turn.calls) for turn in result.turns)


def say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def interrupt(task: WorkplaceTask, turn: int, message: Message) -> Agent:
    """Return an expert that says something else in one turn."""
    expert = expert_agent(task)

    def act(messages: list[Message], tools: list[Message]) -> Message:
        made = sum(message["role"] == "assistant" for message in messages)
        return message if made == turn else expert(messages, tools)

    return act


def test_there_are_four_hard_workplaces_beside_the_others() -> None:
    assert len(HARD_WORKPLACES) == 4
    assert not HARD_WORKPLACES.keys() & WORKPLACES.keys()


@every_hard_workplace
def test_a_hard_workplace_has_all_that_makes_one_hard(workplace: Workplace) -> None:
    assert [len(convention.codes) for convention in workplace.conventions.values()] == [8] * 5
    asked = {question.fact for question in workplace.questions}
    read = {
        convention.fact
        for convention in workplace.conventions.values()
        if any(f"{{{convention.fact}}}" in step.answer for step in workplace.procedure if step.reads)
    }
    told = {fact.fact for fact in workplace.conventions.values() if f"{{{fact.fact}}}" in workplace.request}
    assert (len(told), len(read), len(asked)) == (2, 2, 1)
    assert told | read | asked == {convention.fact for convention in workplace.conventions.values()}
    assert len(workplace.distractors) == 2
    assert sum(len(convention.special_cases) for convention in workplace.conventions.values()) == 3
    assert CALL_FORMAT in workplace.system


@every_hard_workplace
def test_the_expert_needs_six_to_ten_calls_and_is_strictly_right(workplace: Workplace) -> None:
    results = [run_expert(task) for task in draw_tasks(workplace)]
    assert all(result.is_strict_success for result in results)
    assert {count_calls(result) for result in results} == {6, 8, 10}


@every_hard_workplace
def test_the_expert_has_enough_turns_for_the_longest_episode(workplace: Workplace) -> None:
    task = replace(workplace.task("t", 0), obstacles=workplace.obstacles, outage=1)
    result = run_expert(task)
    assert result.success
    assert len(result.turns) == task.turn_limit - 2


@every_hard_workplace
def test_an_agent_that_knows_only_the_notes_solves_every_task(workplace: Workplace) -> None:
    for task in draw_tasks(workplace):
        assert run_episode(task, notes_reader(workplace)).is_strict_success


@every_hard_workplace
def test_copying_the_codes_of_the_nearest_episode_fails(workplace: Workplace) -> None:
    """The agent is otherwise an expert: it has the right numbers, names, order and question."""
    known, asked = draw_tasks(workplace, 160)[:60], draw_tasks(workplace, 160)[60:]
    requests = {task.id: (Turn(role="user", content=task.request),) for task in known}
    index = EpisodeIndex([Example(id=id, trajectory_id=id, task_id=id, turns=turns) for id, turns in requests.items()])
    solved = 0
    for task in asked:
        (found,) = index.retrieve(task.request, 1)
        codes = {name: workplace.task(found.task_id, 0).facts[name] for name in workplace.conventions}
        copied = replace(task, facts={**task.facts, **codes})
        solved += run_episode(task, expert_agent(copied)).is_strict_success
    assert solved == 0


@every_hard_workplace
def test_a_distractor_is_wrong_at_every_turn_and_cannot_be_undone(workplace: Workplace) -> None:
    task = replace(workplace.task("t", 0), obstacles=())
    known = dict(item for step in workplace.procedure for item in step.to_call(task.facts).arguments.items())
    tools = {tool.name: tool.parameters for tool in workplace.tools}
    for name in workplace.distractors:
        wrong = assistant_message(WorkplaceCall(name, {parameter: known[parameter] for parameter in tools[name]}), 99)
        for turn in range(len(run_expert(task).turns)):
            result = run_episode(task, interrupt(task, turn, wrong))
            assert not result.turns[turn].correct
            assert not result.success


@every_hard_workplace
def test_each_special_case_decides_some_tasks(workplace: Workplace) -> None:
    tasks = draw_tasks(workplace, 60)
    for name, convention in workplace.conventions.items():
        for case in convention.special_cases:
            assert case.code not in convention.codes.values()
            special = [task for task in tasks if task.facts[case.fact] == case.word]
            assert len(special) >= 2
            for task in special:
                assert task.facts[name] == case.code
                usual = replace(task, facts={**task.facts, name: convention.codes[task.facts[convention.fact]]})
                assert not run_episode(task, expert_agent(usual)).success


@every_hard_workplace
def test_every_word_and_every_obstacle_occurs_in_sixty_tasks(workplace: Workplace) -> None:
    tasks = draw_tasks(workplace, 60)
    for convention in workplace.conventions.values():
        assert {task.facts[convention.fact] for task in tasks} == set(convention.codes)
    assert {obstacle.code for task in tasks for obstacle in task.obstacles} == {o.code for o in workplace.obstacles}


def test_the_user_answers_a_question_once_and_in_any_words() -> None:
    task = replace(FREIGHT.task("t", 0), obstacles=())
    turn = FREIGHT.questions[0].before
    result = run_episode(task, interrupt(task, turn, say("May I know the Color of the label?")))
    assert result.messages[-1] == say("done")
    assert result.messages[2 * turn + 3] == {"role": "user", "content": task.facts["color"]}
    assert result.is_strict_success
    twice = run_episode(task, lambda messages, tools: say("Which color?"))
    assert [message["role"] for message in twice.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert not twice.success


@pytest.mark.parametrize("text", ["Which size?", "Tell me the color.", "Which colors?"])
def test_a_text_that_does_not_ask_for_the_fact_ends_the_episode(text: str) -> None:
    task = FREIGHT.task("t", 0)
    result = run_episode(task, lambda messages, tools: say(text))
    assert len(result.turns) == 1
    assert not result.success


@every_hard_workplace
def test_strict_success_needs_the_question_in_its_place(workplace: Workplace) -> None:
    task = replace(workplace.task("t", 0), obstacles=())
    early = run_episode(task, interrupt(task, 0, say(workplace.questions[0].text)))
    assert early.success
    assert not early.is_strict_success
    silent = replace(task, workplace=replace(workplace, questions=()))
    lucky = run_episode(task, expert_agent(silent))
    assert lucky.success
    assert not lucky.is_strict_success


def test_a_question_is_due_before_its_step_but_not_before_a_remedy() -> None:
    place = replace(FREIGHT, questions=(Question("color", 2),))
    task = replace(place.task("t", 0), obstacles=FREIGHT.obstacles[:1])
    result = run_expert(task)
    expected = ["open", "check", "ask", "book", "unlock", "book", "mark", "load", "send", "ask"]
    assert [turn.calls[0].tool if turn.calls and turn.calls[0] else "ask" for turn in result.turns] == expected
    simulation = WorkplaceSimulator(task)
    for step in place.procedure[:3]:
        call = step.to_call(task.facts)
        answer = simulation.call_tool(call.tool, call.arguments)
    assert answer == "E_LOCKED"
    assert simulation.expected_question() is None
    remedy = simulation.expected_call()
    assert remedy
    simulation.call_tool(remedy.tool, remedy.arguments)
    assert (simulation.expected_question(), simulation.expected_call()) == (place.questions[0], None)


@every_hard_workplace
def test_an_agent_that_ends_where_it_has_to_ask_is_wrong(workplace: Workplace) -> None:
    task = replace(workplace.task("t", 0), obstacles=())
    result = run_episode(task, interrupt(task, workplace.questions[0].before, say("done")))
    assert [turn.correct for turn in result.turns] == [True] * workplace.questions[0].before + [False]


@every_hard_workplace
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5])
def test_the_share_of_failed_episodes_is_a_parameter(workplace: Workplace, share: float) -> None:
    recorded = list(record_episodes(workplace, 0, 200, failure_share=share))
    failed = [episode for episode in recorded if not episode.result.success]
    assert abs(len(failed) / len(recorded) - share) < 0.08
    kinds = Counter(episode.noise for episode in failed)
    assert set(kinds) == {kind for episode in failed for kind in possible_failures(episode.task)}
    assert len(kinds) == 7
    assert all(episode.result.is_strict_success for episode in recorded if episode.noise is None)
    others = {episode.noise for episode in recorded if episode.noise and episode.result.success}
    assert {Noise.FALSE_START, Noise.TRANSIENT, Noise.LOOP, Noise.WRONG_ARGUMENT} >= others


@every_hard_workplace
def test_the_same_seed_records_the_same_episodes(workplace: Workplace) -> None:
    first, again, other = (
        [episode.to_jsonl() for episode in record_episodes(workplace, seed, 20, failure_share=0.4)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
