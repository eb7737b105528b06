"""The arms: what stands in the prompt of each, and whether the skill answers.

``run.py`` makes the prompts of every arm here. All arms have the same system line, which tells the form of a call, the
same tool list, and the same conversation up to the action. So an arm that gets nothing right does not fail because it
was never told how tools are called, or which there are. The form is told by a call of a training episode, of the tool
that is used most: small models copy a placeholder such as ``TOOL`` into their calls, and with an example they do not.

**Policy.** The tenant's own policy, whole, in the system turn, where its recorded agent had it.

**Retrieval.** The ``MAX_EPISODES`` training episodes whose requests are most similar by BM25, each of another task and
none of a held-out one, as they were said. Together with the policy they take at most ``KNOWLEDGE_SHARE`` of the longest
prompt, so that the arm with both has room for its conversation; the arm with retrieval alone gets the same episodes.

**Skill.** Trained with the recipe on prompts without policy and episodes, unless its contexts add some.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from looper.basemodel.chat_renderer import ChatRenderer
from looper.basemodel.turn_renderer import TurnRenderer
from looper.benchmarks.real_tenants.tenants import TenantSplit
from looper.jobs.synthesis.contexts.episodes import EpisodeIndex, find_request, render_episodes
from looper.jobs.synthesis.contexts.notes import add_notes, add_to_system
from looper.jobs.synthesis.contexts.render_contexts import render_contexts
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import ToolCall

MAX_EPISODES = 4
"""Maximum episodes that are retrieved for a task."""

MAX_PROMPT_TOKENS = 8192
"""Maximum tokens of a prompt with its answer: the context of SmolLM2-135M. Larger bases get the same prompts."""

KNOWLEDGE_SHARE = 0.625
"""Share of ``MAX_PROMPT_TOKENS`` that policy and episodes take together at most."""


class TenantArm(StrEnum):
    """What answers, and with which knowledge."""

    BARE = "bare"
    """The base model."""
    POLICY = "policy"
    """The base model with the tenant's policy in its prompt."""
    RETRIEVAL = "retrieval"
    """The base model with similar episodes of other tasks in its prompt."""
    SKILL = "skill"
    """The skill, with the prompt of ``BARE``."""
    BOTH = "skill + policy + retrieval"
    """The skill, with policy and episodes in its prompt."""

    @property
    def has_skill(self) -> bool:
        """Whether the trained adapter answers."""
        return self in (TenantArm.SKILL, TenantArm.BOTH)

    @property
    def has_policy(self) -> bool:
        """Whether the prompt has the policy."""
        return self in (TenantArm.POLICY, TenantArm.BOTH)

    @property
    def has_episodes(self) -> bool:
        """Whether the prompt has episodes."""
        return self in (TenantArm.RETRIEVAL, TenantArm.BOTH)


class ArmPrompts:
    """Makes the prompts of one tenant with one seed."""

    def __init__(
        self, split: TenantSplit, write: Callable[[ToolCall], str], count_tokens: Callable[[str], int]
    ) -> None:
        """Prepare.

        Args:
            split: The tenant's examples.
            write: Writes a call in the form of the base model, as ``write_call`` does.
            count_tokens: Counts the tokens of a text.
        """
        self._split = split
        usual = find_usual_call(split.memory)
        form = f" A tool is called in this form:\n{write(usual)}" if usual else ""
        self._line = f"You are the agent of {split.tenant.name}.{form}"
        self._count_tokens = count_tokens
        self._index = EpisodeIndex(split.memory) if split.memory else None

    def training_examples(self, recipe: Recipe) -> list[Example]:
        """Return what the skill is trained on: bare prompts, and the contexts that ``recipe`` adds."""
        bare = [self._with_line(example) for example in self._split.train]
        return render_contexts(bare, recipe.contexts, recipe.max_seq_length)

    def asked_examples(self, arm: TenantArm) -> list[Example]:
        """Return the held-out examples as ``arm`` is asked them. Only turns with tool calls keep their weight."""
        return [self._ask(example, arm) for example in self._split.holdout]

    def retrieve(self, example: Example) -> list[Example]:
        """Return the episodes for a held-out ``example``, the most similar one last."""
        if self._index is None:
            return []
        found = self._index.retrieve(find_request(example.turns), MAX_EPISODES, without_task=example.task_id)
        room = int(MAX_PROMPT_TOKENS * KNOWLEDGE_SHARE) - self._count_tokens(self._split.tenant.policy)
        taken: list[Example] = []
        for episode in reversed(found):  # the most similar one first; one that is too long makes place for the next
            room_left = room - self._count_tokens(_render(reversed([*taken, episode])))
            if room_left >= 0:
                taken.append(episode)
        return taken[::-1]

    def _ask(self, example: Example, arm: TenantArm) -> Example:
        turns = self._with_line(example).turns
        if arm.has_policy and self._split.tenant.policy:
            turns = add_notes(turns, self._split.tenant.policy)
        if arm.has_episodes and (episodes := self.retrieve(example)):
            turns = add_to_system(turns, _render(episodes))
        return example.model_copy(update={"turns": tuple(_weigh_calls_only(turn) for turn in turns)})

    def _with_line(self, example: Example) -> Example:
        return example.model_copy(update={"turns": (Turn(role="system", content=self._line), *example.turns)})


def write_call(renderer: ChatRenderer, call: ToolCall) -> str:
    """Return a tool call as the base model's chat template writes it.

    Args:
        renderer: Renderer of the base model.
        call: The call.

    Returns:
        The text of the call.
    """
    function = {"name": call.name, "arguments": call.arguments}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "-"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "0", "type": "function", "function": function}]},
    ]
    conversation = renderer.parse(messages, json.dumps([{"type": "function", "function": {"name": call.name}}]))
    *history, message = conversation.messages
    rendered = TurnRenderer(renderer).render(conversation, history, message)
    ((start, end),) = rendered.calls
    text: str = renderer.tokenizer.decode(rendered.answer[start:end])
    return text.strip()


def find_usual_call(examples: Sequence[Example]) -> ToolCall | None:
    """Return the first call of the tool that is called most often.

    Args:
        examples: Examples of one tenant.

    Returns:
        The call, or None if there are none.
    """
    calls = [call for example in examples for turn in example.turns if turn.weight > 0 for call in turn.tool_calls]
    counts = Counter(call.name for call in calls)
    return max(calls, key=lambda call: (counts[call.name], call.name), default=None)


def _render(episodes: Any) -> str:
    shown: list[Sequence[Turn]] = [episode.turns for episode in episodes]
    return render_episodes(shown)


def _weigh_calls_only(turn: Turn) -> Turn:
    """Keep the weight of actions alone, so that nothing is computed for what is not evaluated."""
    return turn if turn.tool_calls else turn.model_copy(update={"weight": 0.0})
