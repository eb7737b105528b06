"""Notes of a workplace: its true rules as text, as an agent's knowledge layer would put them into its prompt.

``generate`` puts them into some recorded episodes, and the demo and the benchmarks into the prompts of live agents.
"""

from looper.gym.episode import Message
from looper.gym.workplace import Convention, Workplace, WorkplaceStep
from looper.jobs.synthesis.contexts.notes import wrap_notes


def write_notes(workplace: Workplace) -> str:
    """Write down the rules of a workplace.

    Args:
        workplace: The workplace.

    Returns:
        The rules, one on each line. What differs from task to task stands in angle brackets. After the arrow of a step
        stands what its answer tells.
    """
    names = {name: f"<{name}>" for name in (*workplace.values, *workplace.conventions)}
    names |= {convention.fact: f"<{convention.fact}>" for convention in workplace.conventions.values()}
    told = {convention.fact for convention in workplace.conventions.values()}
    steps = []
    for number, step in enumerate(workplace.procedure):
        asked = [question for question in workplace.questions if question.before == number]
        steps += [f"- Ask the user: {question.text} -> <{question.fact}>." for question in asked]
        answer = step.answer.format_map(names)
        tells_word = step.reads and any(f"<{fact}>" in answer for fact in told)
        steps.append(f"- {_write_step(step, names)}{f' -> {answer}' if tells_word else ''}.")
    codes = [f"- {_write_convention(name, convention)}" for name, convention in workplace.conventions.items()]
    special_cases = [
        f"- But {name}={case.code} if {case.fact} is {case.word}."
        for name, convention in workplace.conventions.items()
        for case in convention.special_cases
    ]
    remedies = [
        f"- On {obstacle.code}: {_write_step(obstacle.remedy, names)}, then the same call again."
        for obstacle in workplace.obstacles
    ]
    never = [f"- Never call {' or '.join(workplace.distractors)}."] if workplace.distractors else []
    return "\n".join([*steps, *codes, *special_cases, *remedies, *never])


def with_notes(messages: list[Message], notes: str) -> list[Message]:
    """Put notes into the system message of an episode.

    Args:
        messages: Messages of an episode. The first one is the system's.
        notes: The notes.

    Returns:
        The messages.
    """
    first, *others = messages
    return [{**first, "content": f"{first['content']}\n{wrap_notes(notes)}"}, *others]


def _write_step(step: WorkplaceStep, names: dict[str, str]) -> str:
    arguments = ", ".join(f"{name}={template.format_map(names)}" for name, template in step.arguments.items())
    return f"{step.tool.format_map(names)} {arguments}"


def _write_convention(name: str, convention: Convention) -> str:
    codes = ", ".join(f"{word} -> {code}" for word, code in convention.codes.items())
    return f"{name} by {convention.fact}: {codes}."
