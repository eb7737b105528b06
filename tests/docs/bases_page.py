"""``python -m tests.docs.bases_page``: writes docs/bases.md, what agents on the bases that people run can be taught.

The chat templates are real; the models around them are tiny. A test compares the page with what this makes.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.platform.domain.errors import InvalidInput

with import_vllm_quietly():
    from looper.basemodel.diagnosis import diagnose
    from tests.architectures import ARCHITECTURES, REFUSED
    from tests.template_bases import prepared_base, template_names

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bases.md"
SERVED = ROOT / "docs" / "results" / "architectures.json"
"""Largest difference between trained and served log probabilities by architecture."""

_HEAD = """# Base models

`looper doctor BASE` tells for any base model what these tables tell for some: whether agents on it can be taught, which
messages reach the prompt, and whether tool calls survive the way from the trajectory through training to the engine's
parser. Both tables are made by `python -m tests.docs.bases_page`.

## Chat templates

Each template is a real one, in a tiny model. A base whose own template writes no tool calls gets Looper's, if its
vocabulary has the tokens `<|im_start|>` and `<|im_end|>`. Otherwise, if vLLM reads back no calls that its template
writes, the template keeps its turns, and tools, calls and results are in their text. A `chat_template.jinja` in the
folder of the base replaces its own.
Prompts are rendered by vLLM's own code in training and serving
([decision 24](decisions/0024-the-engines-renderer.md)), so they are equal token for token:
`tests/basemodel/test_parity.py` compares them with its renderer and `tests/serve/test_template_parity.py` with what
running engines say that they were asked, over 200 histories a template.

"""

_ARCHITECTURES = """
## Architectures

Tiny models of the real classes with random weights. *Together = alone*: what three owners train in one pass has the
losses and gradients that PEFT gives each alone, to 1e-4 (`tests/jobs/consolidation/model/test_architectures.py`).
*Served = trained*: the largest difference between a token's log probability in training and in vLLM on a CPU, with an
adapter on all layers that adapters change (`tests/serve/test_architectures.py`). Engines multiply adapters in bfloat16.

"""

_TAIL = """
Adapters on mixtures of experts change the attention only; vLLM (0.29) cannot run these models with adapters on a CPU
(`topk_softmax` is missing), so they were not compared. Adapters on GLM-4 leave `gate_up_proj` alone, because vLLM
expects adapters of two layers there. Models whose attention has a cap (Gemma 2) or sinks (gpt-oss) are refused, and so
are hybrids (LFM2): whatever lets tokens see each other outside of attention fails the check that
every trainer makes at its start.

Quantized bases (AWQ, GPTQ, FP8, bitsandbytes) are refused, because adapters are trained on weights that are not. Name
the original model, and let engines quantize it when they load it: `serve.engine: {"quantization": "fp8"}`.
"""


def _describe_template(name: str, folder: Path) -> str:
    """Return the row of a template."""
    try:
        prepared = prepared_base(folder, name)
    except InvalidInput as error:
        reason = str(error).removeprefix(f"base model {str(folder / name)!r} ")
        return _row(f"`{name}`", f"no: {reason}", *[""] * 6)
    found = diagnose(prepared)
    history = "appended" if found.keeps_history else "rewritten"
    parser = f"`{found.parsers.tool_call_parser}`" if found.parsers.tool_call_parser else ""
    roles = ", ".join(found.roles) or "none"
    return _row(f"`{name}`", "yes", found.template, history, roles, found.tool_calls, parser, found.reasoning)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _table(*columns: str) -> str:
    return _row(*columns) + _row(*["---"] * len(columns))


def make_page() -> str:
    """Return the text of the page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    yield _table(
        "base", "can be taught", "template", "history", "beside user and tool", "tool calls", "parser", "reasoning"
    )
    with TemporaryDirectory() as temporary:
        for name in template_names():
            print(name, file=sys.stderr)
            yield _describe_template(name, Path(temporary))
    yield _ARCHITECTURES
    yield _table("family", "class", "together = alone", "served = trained")
    served = json.loads(SERVED.read_text()) if SERVED.exists() else {}
    for family, (config, _) in ARCHITECTURES.items():
        difference = f"{served[family]:.4f} nats" if family in served else "not on a CPU"
        yield _row(family, f"`{config.model_type}`", "yes", difference)
    for family, (config, _) in REFUSED.items():
        yield _row(family, f"`{config.model_type}`", "refused", "")
    yield _TAIL


if __name__ == "__main__":
    PAGE.write_text(make_page())
