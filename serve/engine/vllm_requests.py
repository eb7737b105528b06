"""Builds vLLM's request from a request that the gateway has parsed. ``SkillServer.generate`` calls it.

Imports vLLM.
"""

from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from vllm.exceptions import VLLMValidationError

from looper.serve.engine.request_bounds import check_token_ids
from looper.serve.error_responses import RequestRefused, error_response
from looper.serve.protocol import Endpoint, FullResponse, RequestBody

_MODELS: dict[Endpoint, type[BaseModel]] = {"chat": ChatCompletionRequest, "completions": CompletionRequest}


def build_vllm_request(endpoint: Endpoint, body: RequestBody, vocab_size: int) -> Any:
    """Build vLLM's request.

    Messages and prompts are not validated again: vLLM tries each message as each of twenty types, and each prompt as
    each of four, while the engine's event loop and all its streams wait.

    Args:
        endpoint: The endpoint that it was sent to.
        body: The request, as the gateway has parsed it.
        vocab_size: Vocabulary size of the base model.

    Returns:
        A ``ChatCompletionRequest`` or a ``CompletionRequest``.

    Raises:
        RequestRefused: A token id is not in the vocabulary, or vLLM refuses the request. The error names the field.
    """
    if refusal := check_token_ids(body, vocab_size):
        raise RequestRefused(refusal)
    large, placeholder = ("messages", []) if endpoint == "chat" else ("prompt", "-")
    try:
        request = _MODELS[endpoint].model_validate(body | {large: placeholder})
    except ValidationError as error:
        raise RequestRefused(_validation_error_response(error)) from error
    except VLLMValidationError as error:  # not a ValueError, so pydantic does not convert it
        raise RequestRefused(error_response(400, str(error), param=error.parameter)) from error
    value = body[large]
    setattr(request, large, value if endpoint == "completions" else [_rename_reasoning(message) for message in value])
    return request


def _rename_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Rename the deprecated ``reasoning_content``, as vLLM's own validation does."""
    if "reasoning_content" not in message:
        return message
    return {"reasoning": message["reasoning_content"]} | {
        name: value for name, value in message.items() if name != "reasoning_content"
    }


def _validation_error_response(error: ValidationError) -> FullResponse:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return error_response(400, f"{field}: {first['msg']}" if field else first["msg"], param=field or None)
