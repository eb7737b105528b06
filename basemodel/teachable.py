"""Tells whether agents on a base model can be taught, before anything is trained."""

from looper.basemodel.chat_renderer import EXAMPLE_TOOLS, ChatRenderer, Unrenderable
from looper.basemodel.turn_renderer import TurnRenderer
from looper.platform.domain.errors import InvalidInput

_TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}]


def check_teachable(renderer: ChatRenderer, base: str) -> None:
    """Check that a base model can be taught.

    Args:
        renderer: Renderer of the base model.
        base: Its name, for the error message.

    Raises:
        InvalidInput: If vLLM renders its prompts without the chat template, if packed training cannot compute its
            attention, or if the template writes no turn of the agent that the engine would end.
    """
    config = renderer.model_config.hf_config
    if config.model_type == "gpt_oss":
        raise InvalidInput(
            f"base model {base!r} is of the type gpt_oss, whose prompts vLLM renders without a chat template: choose "
            "another base"
        )
    if getattr(config, "attn_logit_softcapping", None):
        raise InvalidInput(
            f"base model {base!r} caps its attention scores (attn_logit_softcapping), which consolidation does not "
            "support: choose another base"
        )
    failure: Unrenderable | None = None
    for tools in (None, EXAMPLE_TOOLS):  # some templates are for agents with tools only
        try:
            conversation = renderer.parse(_TURNS, tools)
            TurnRenderer(renderer).render(conversation, conversation.messages[:1], conversation.messages[1])
        except Unrenderable as error:
            failure = failure or error
        else:
            return
    raise InvalidInput(
        f"base model {base!r} cannot be taught: {failure}; put another chat_template.jinja into its folder, or choose "
        "an instruction-tuned base"
    ) from failure
