"""Renders chat histories as the engine does: with vLLM's own request model, message parsing, template and tokenizer.

Synthesis renders training examples with it. So an example's prompt is, token for token, what the engine is asked when
the same history is sent to it.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from vllm.config import ModelConfig
from vllm.entrypoints.chat_utils import parse_chat_messages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format, safe_apply_chat_template
from vllm.tokenizers import cached_tokenizer_from_config

from looper.platform.adapters.base_revision import TOKENIZER_MODE
from looper.platform.domain.errors import InvalidInput

_RULE = "Say please."
EXAMPLE_TOOLS = (
    '[{"type": "function", "function": {"name": "find", "description": "Find", "parameters": {"type": "object"}}}]'
)
"""JSON text of a list of tools."""


class Unrenderable(InvalidInput):
    """A turn that the base model cannot be taught, or a history that its template refuses."""


@dataclass(frozen=True)
class Conversation:
    """A chat history as vLLM passes it to the template."""

    request: ChatCompletionRequest
    """The request with all messages."""
    messages: list[dict[str, Any]]
    """The messages."""
    tools: list[dict[str, Any]] | None
    """The tool list, with vLLM's defaults."""


@dataclass(frozen=True)
class TokenizedText:
    """A text with its N tokens."""

    text: str
    """The text."""
    tokens: list[int]
    """Token ids, ``[N]``."""
    ends: list[int]
    """Where each token ends in the text, in characters, ``[N]``."""


class ChatRenderer:
    """Renders and tokenizes the prompts of one base model.

    Attributes:
        model_config: vLLM's configuration of the base model.
        tokenizer: The base model's tokenizer, as the engine uses it.
        template: Chat template for conversations without tools. A base model may have another one for those with tools.
        stop_tokens: Ids of the tokens that end a response.
        special_texts: Texts of the special tokens.
        vocab_size: Number of tokens that the base model has embeddings for. A tokenizer may know more.
    """

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer and the configuration.

        Args:
            folder: Folder of the base model.

        Raises:
            InvalidInput: If the base model has no chat template.
        """
        # vLLM logs each refusal of a template with its traceback.
        logging.getLogger("vllm.renderers.hf").setLevel(logging.CRITICAL)
        self.model_config = ModelConfig(str(folder), tokenizer_mode=TOKENIZER_MODE)
        self.tokenizer: Any = cached_tokenizer_from_config(self.model_config)
        template = resolve_chat_template(self.tokenizer, None, None, model_config=self.model_config)
        if not template:
            raise InvalidInput(
                f"base model {folder.name!r} has no chat template to render examples with: choose an "
                "instruction-tuned base, or put a chat_template.jinja into its folder"
            )
        self.template = template
        self.vocab_size = self.model_config.get_vocab_size()
        stop = self.model_config.try_get_generation_config().get("eos_token_id", [])
        stop = {stop} if isinstance(stop, int) else set(stop)
        self.stop_tokens = frozenset(stop | {self.tokenizer.eos_token_id} - {None})
        self.special_texts = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self._anchors = {
            number: len(token.content)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and not token.rstrip and not token.normalized
        }
        """Lengths of the special tokens, in characters, by id: text before and after one is tokenized independently."""

    def parse(self, messages: Sequence[dict[str, Any]], tools: str | None) -> Conversation:
        """Parse messages as the engine parses a request.

        Args:
            messages: Messages of OpenAI's chat format.
            tools: OpenAI's tool list as JSON text; None or an empty list for no tools.

        Returns:
            The conversation.

        Raises:
            Unrenderable: If the engine refuses the messages or tools.
        """
        body: dict[str, Any] = {"model": "", "messages": []}
        try:
            if tools is not None and (parsed_tools := orjson.loads(tools)):
                body["tools"] = parsed_tools
            request = ChatCompletionRequest.model_validate(body)
            # As in serving, vLLM does not validate the messages: that would sort the names in tool calls.
            request.messages = list(messages)
            tool_list = None if request.tools is None else [tool.model_dump() for tool in request.tools]
            content_format = resolve_chat_template_content_format(
                None, tool_list, "auto", self.tokenizer, model_config=self.model_config
            )
            parsed, _, _ = parse_chat_messages(request.messages, self.model_config, content_format)
        except MemoryError:  # not a property of the messages
            raise
        except Exception as error:  # vLLM looks into what it has not validated yet, so any type may come out
            raise Unrenderable("the engine refuses the messages or the tools") from error
        return Conversation(request, parsed, tool_list)

    def render(self, conversation: Conversation, messages: Sequence[dict[str, Any]], *, prompt: bool) -> str:
        """Render messages with the chat template.

        Args:
            conversation: Gives the tools.
            messages: Messages of the conversation.
            prompt: Whether the agent's next turn is to be generated after them.

        Returns:
            The text.

        Raises:
            Unrenderable: If the template refuses the messages.
        """
        try:
            return str(
                safe_apply_chat_template(
                    self.model_config,
                    self.tokenizer,
                    messages,
                    tools=conversation.tools,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    continue_final_message=False,
                    documents=None,
                    reasoning_effort=None,
                )
            )
        except MemoryError:  # not a property of the messages
            raise
        except Exception as error:  # templates are programs: any type may come out of one
            raise Unrenderable(f"the chat template refuses it: {_first_line(error)}") from error

    def shows(self, role: str) -> bool:
        """Tell whether messages of a role reach the prompt.

        Args:
            role: Such as "system".

        Returns:
            Whether they do. If not, the template refuses them or leaves them out.
        """
        messages = [{"role": role, "content": _RULE}, {"role": "user", "content": "Hi."}]
        for tools in (None, EXAMPLE_TOOLS):  # some templates are for agents with tools only
            with suppress(Unrenderable):
                conversation = self.parse(messages, tools)
                if _RULE in self.render(conversation, conversation.messages, prompt=True):
                    return True
        return False

    def tokenize(self, text: str, known: TokenizedText | None = None) -> TokenizedText:
        """Tokenize a rendered text as the engine does.

        Args:
            text: The text.
            known: A text that may begin as this one does. Its tokens are reused up to the last special token that both
                have.

        Returns:
            The text with its tokens.
        """
        kept = 0 if known is None else self._count_reusable(known, text)
        if known is None or not kept:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return TokenizedText(text, encoded["input_ids"], [end for _, end in encoded["offset_mapping"]])
        # The special token comes along, because some tokenizers treat the beginning of a text in a special way.
        start = known.ends[kept - 1] - self._anchors[known.tokens[kept - 1]]
        encoded = self.tokenizer(text[start:], add_special_tokens=False, return_offsets_mapping=True)
        ends = [start + end for _, end in encoded["offset_mapping"]]
        return TokenizedText(text, known.tokens[: kept - 1] + encoded["input_ids"], known.ends[: kept - 1] + ends)

    def _count_reusable(self, known: TokenizedText, text: str) -> int:
        """Return how many of the first tokens of ``known`` are those of ``text`` too; the last is a special token."""
        common = common_prefix_length(known.text, text)
        for index in range(len(known.tokens) - 1, -1, -1):
            if known.ends[index] <= common and known.tokens[index] in self._anchors:
                return index + 1
        return 0


def common_prefix_length(a: str, b: str) -> int:
    """Return the length of the common prefix of two texts."""
    if b.startswith(a):
        return len(a)
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message without what it quotes, so that equal reasons have equal texts."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", line)[:200]
