"""Let a model work on a task of the gym with something in its prompt.

All arms play through ``TaskPlayer``, which goes through the gym's ``run_episode``: the gym alone decides what a turn
means and when an episode has ended.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from looper.benchmarks.skill.chat import MeteredChat
from looper.gym.episode import EpisodeResult, Message, parse_tool_call, run_episode
from looper.gym.workplace import Tool, WorkplaceTask

CALL_FORMAT = """To call a tool, write only:
<tool_call>
{"name": "the tool", "arguments": {"parameter": "value"}}
</tool_call>
Then you get its answer. When the task is done, write done."""
"""Told to a model that has not learned it: how a call is written. It is the form that the engine's parser reads."""

MAX_OWN_CALLS = 4
"""Calls of a memory's own tools between two turns in the world."""


@dataclass(frozen=True)
class PromptKnowledge:
    """What a knowledge layer puts into a prompt."""

    system: str = ""
    """Text at the end of the system message."""
    turns: tuple[Message, ...] = ()
    """Earlier conversations, between the system message and the request."""


@dataclass(frozen=True)
class OwnTool:
    """A tool of the knowledge layer, such as a search. The world never sees its calls."""

    tool: Tool
    """Its name and parameters."""
    answer: Callable[[Mapping[str, object]], str]
    """Answers a call."""


@dataclass(frozen=True)
class TaskPlayer:
    """A model that plays tasks."""

    chat: MeteredChat
    """The model."""
    needs_format: bool
    """Whether the model has not learned how calls are written, so that its prompt has to say it."""

    def play(
        self, task: WorkplaceTask, knowledge: PromptKnowledge | None = None, own_tools: Sequence[OwnTool] = ()
    ) -> EpisodeResult:
        """Play a task.

        Args:
            task: The task.
            knowledge: What stands in the prompt. None: nothing, not even how calls are written.
            own_tools: Tools of the knowledge layer.

        Returns:
            The episode as the world saw it.
        """
        tools_by_name = {own.tool.name: own for own in own_tools}
        own_schemas = [own.tool.to_openai() for own in own_tools]
        # Messages of the knowledge layer's own calls, each with the number of the world's messages before it.
        inserted: list[tuple[int, Message]] = []

        def act(messages: list[Message], tools: list[Message]) -> Message:
            for _ in range(MAX_OWN_CALLS):
                prompt = self._build_prompt(messages, inserted, knowledge)
                answer = self.chat.ask(prompt, [*tools, *own_schemas])
                calls = [call for call in answer.get("tool_calls") or () if call["function"]["name"] in tools_by_name]
                if not calls:
                    return answer
                inserted.append((len(messages), {**answer, "tool_calls": calls}))
                for raw in calls:
                    content = _answer_own_call(raw, tools_by_name)
                    inserted.append((len(messages), {"role": "tool", "tool_call_id": raw["id"], "content": content}))
            return {"role": "assistant", "content": ""}

        return run_episode(task, act, end_loops=True)

    def _build_prompt(
        self, messages: list[Message], inserted: list[tuple[int, Message]], knowledge: PromptKnowledge | None
    ) -> list[Message]:
        system, *others = messages
        texts = [str(system["content"])]
        if knowledge is not None:
            # Whole conversations show how calls are written; the words would only distract from them.
            texts += [CALL_FORMAT] if self.needs_format and not knowledge.turns else []
            texts += [knowledge.system] if knowledge.system else []
        prompt = [{**system, "content": "\n".join(texts)}, *(knowledge.turns if knowledge else ())]
        for number, message in enumerate([*others, None], start=1):
            prompt += [own for place, own in inserted if place == number]
            prompt += [message] if message is not None else []
        return prompt


def _answer_own_call(raw: Message, tools_by_name: Mapping[str, OwnTool]) -> str:
    call = parse_tool_call(raw)
    if call is None:
        return "E_ARGS"
    return tools_by_name[call.tool].answer(call.arguments)
