"""Checks of a parsed request that no type expresses: what fields mean together, and what they nest.

``parser`` calls it. Each check takes a time that the sizes bound which ``parser`` has checked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from looper.serve.protocol import RequestBody
from looper.serve.requests.fields import MAX_ARGUMENT_BYTES, MAX_DEPTH, MAX_MESSAGES, MAX_VALUES
from looper.serve.requests.schemas import find_reference_problem

Problem: TypeAlias = tuple[str, str]
"""A field, and what is wrong with it."""

TEMPLATE_PARAMETERS = frozenset(
    {
        *("self", "conversation", "conversations", "messages", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens", "padding", "truncation"),
        *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)
"""Parameters of the tokenizer's ``apply_chat_template``, which ``chat_template_kwargs`` must not set a second time."""


@dataclass(frozen=True)
class RequestLimits:
    """What the engines of a base model can run."""

    max_sequences: int
    """Maximum number of sequences of one request."""
    max_tokens: int
    """Maximum number of tokens of one sequence, prompt and response together."""


def largest(limits: Iterable[RequestLimits]) -> RequestLimits:
    """Return the limits that no base model's engines exceed: a request is read before it is known which ones get it."""
    each = list(limits)
    return RequestLimits(max(one.max_sequences for one in each), max(one.max_tokens for one in each))


def count_prompts(body: RequestBody) -> int:
    """Return the number of prompts of a request. A chat has one.

    Args:
        body: The request.

    Returns:
        The number of prompts.
    """
    prompt = body.get("prompt")
    return 1 if not isinstance(prompt, list) or isinstance(prompt[0], int) else len(prompt)


def count_sequences(body: RequestBody) -> int:
    """Return how many sequences the engine generates for a request.

    Args:
        body: The request.

    Returns:
        Number of prompts times number of choices or beams.
    """
    choices: int = body.get("n", 1)
    return count_prompts(body) * choices


def check_values(body: RequestBody, limits: RequestLimits) -> Problem | None:
    """Check what a request's fields mean together, and what they nest.

    Args:
        body: The request. Each field has the type and the bounds of ``fields``.
        limits: What the engines can run.

    Returns:
        The first problem, None if there is none.
    """
    for check in (_check_counts, _check_combinations, _check_nesting, _check_arguments, _check_template):
        for problem in check(body, limits):
            return problem
    return None


def _check_counts(body: RequestBody, limits: RequestLimits) -> Iterator[Problem]:
    prompts, choices = count_prompts(body), body.get("n", 1)
    if prompts * choices > limits.max_sequences:
        field = "n" if choices > limits.max_sequences or prompts <= limits.max_sequences else "prompt"
        requested = f"{prompts} prompts with n = {choices}" if prompts > 1 else f"n = {choices}"
        yield field, f"{requested} needs {prompts * choices} sequences, but the maximum is {limits.max_sequences}"
    for field in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if body.get(field, 0) > limits.max_tokens:
            yield field, f"{body[field]} is more than the model's context of {limits.max_tokens} tokens"
    parts = sum(
        len(message.get("tool_calls", ()))
        + (len(content) if isinstance(content := message.get("content"), list) else 0)
        for message in body.get("messages", ())
    )
    if len(body.get("messages", ())) + parts > MAX_MESSAGES:
        yield "messages", f"has more than {MAX_MESSAGES} messages, parts and tool calls"
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not isinstance(prompt[0], str):
        longest = max(map(len, [prompt] if isinstance(prompt[0], int) else prompt))
        if longest > limits.max_tokens:
            yield "prompt", f"{longest} token ids are more than the model's context of {limits.max_tokens} tokens"


def _check_combinations(body: RequestBody, _: RequestLimits) -> Iterator[Problem]:
    response_format, structured = body.get("response_format"), body.get("structured_outputs")
    max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    if body.get("min_tokens", 0) > (max_tokens if max_tokens is not None else body.get("min_tokens", 0)):
        yield "min_tokens", "must not be more than max_tokens"
    if max_tokens == 0 and not body.get("echo"):
        yield "max_tokens", "must be at least 1 without echo"
    if body.get("stream_options") and not body.get("stream"):
        yield "stream_options", "needs stream: true"
    if body.get("prompt_logprobs") and body.get("stream"):
        yield "prompt_logprobs", "is not available with stream: true"
    if body.get("top_logprobs") and not body.get("logprobs"):
        yield "top_logprobs", "needs logprobs: true"
    if body.get("logprob_token_ids"):
        if not body.get("logprobs"):
            yield "logprob_token_ids", "needs logprobs"
        if body.get("use_beam_search"):
            yield "logprob_token_ids", "is not available with use_beam_search"
    if body.get("continue_final_message") and body.get("add_generation_prompt", True):
        yield "continue_final_message", "needs add_generation_prompt: false"
    if isinstance(choice := body.get("tool_choice"), dict) or choice in ("auto", "required"):
        names = [tool["function"]["name"] for tool in body.get("tools", [])]
        if not names:
            yield "tool_choice", "needs tools"
        elif isinstance(choice, dict) and choice["function"]["name"] not in names:
            yield "tool_choice.function.name", "is not the name of one of the tools"
    if response_format:
        needed = {"json_schema": "json_schema"}.get(response_format["type"])
        if needed and needed not in response_format:
            yield f"response_format.{needed}", "is required"
        if structured and response_format["type"] != "text":
            yield "structured_outputs", "cannot be combined with response_format"
    if structured is not None:
        kinds = structured.keys() & {"json", "regex", "choice", "grammar", "json_object", "structural_tag"}
        if len(kinds) != 1:
            yield "structured_outputs", "needs one of json, regex, choice, grammar, json_object and structural_tag"


def _check_nesting(body: RequestBody, _: RequestLimits) -> Iterator[Problem]:
    for field, value, is_schema in _free_values(body):
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeEncodeError) as error:
                yield field, f"is not JSON: {error}"
            except RecursionError:
                yield field, f"is nested more than {MAX_DEPTH} deep"
        if problem := find_nesting_problem(value):
            yield field, problem
        if is_schema and isinstance(value, dict) and (problem := find_reference_problem(value)):
            yield field, problem


def _free_values(body: RequestBody) -> Iterator[tuple[str, Any, bool]]:
    """Yield what the request nests freely: the field, the value or its JSON text, and whether it is a JSON schema."""
    response_format, structured = body.get("response_format", {}), body.get("structured_outputs", {})
    for name in ("format", "structures"):
        yield f"response_format.{name}", response_format.get(name), False
    schema = response_format.get("json_schema", {}).get("schema")
    yield "response_format.json_schema.schema", schema, True
    if "json" in structured:
        yield "structured_outputs.json", structured["json"], True
    if "structural_tag" in structured:
        yield "structured_outputs.structural_tag", structured["structural_tag"], False
    for number, tool in enumerate(body.get("tools", [])):
        yield f"tools[{number}].function.parameters", tool["function"].get("parameters"), True


def find_nesting_problem(value: Any) -> str | None:
    """Check how much a JSON value nests, and how deep.

    Args:
        value: The value.

    Returns:
        What is wrong, None if nothing is.
    """
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            return f"has more than {MAX_VALUES} values"
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} deep"
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level, depth = inner, depth + 1
    return None


def _check_arguments(body: RequestBody, _: RequestLimits) -> Iterator[Problem]:
    """Check the arguments of tool calls, which vLLM parses as JSON. If they are not JSON, vLLM ignores them."""
    total = brackets = 0
    for number, message in enumerate(body.get("messages", [])):
        for call_number, call in enumerate(message.get("tool_calls", ())):
            arguments = call["function"].get("arguments", "")
            field = f"messages[{number}].tool_calls[{call_number}].function.arguments"
            total += len(arguments)
            brackets += arguments.count("[") + arguments.count("{")
            if total > MAX_ARGUMENT_BYTES:
                yield field, f"the arguments of all tool calls have more than {MAX_ARGUMENT_BYTES} characters"
            if brackets > MAX_VALUES:
                yield field, f"the arguments of all tool calls have more than {MAX_VALUES} objects and arrays"
            # Brackets in strings count here too. Only arguments with many are parsed here.
            if arguments.count("[") + arguments.count("{") > MAX_DEPTH and (problem := _find_text_problem(arguments)):
                yield field, problem


def _find_text_problem(text: str) -> str | None:
    """Check how much JSON text nests. Text that is not JSON is fine."""
    try:
        return find_nesting_problem(msgspec.json.decode(text))
    except RecursionError:
        return f"is nested more than {MAX_DEPTH} deep"
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _check_template(body: RequestBody, _: RequestLimits) -> Iterator[Problem]:
    for name in body.get("chat_template_kwargs", {}):
        if name in TEMPLATE_PARAMETERS:
            yield f"chat_template_kwargs.{name}", "is not a variable of the template, but is set by the server"
