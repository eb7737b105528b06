"""What is known of a base model: the revision of its weights, its layers, and how its answers are read.

``looper.basemodel`` writes it. Trainers, the gate and the engines' download processes read the revision, to refuse
adapters of another one. Engines and synthesis read the names of the parsers, and engines what adapters change: they
must not import torch before their environment is set.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

BASE_MANIFEST = "looper.json"
"""File in a base model's folder."""


TOKENIZER_MODE = "hf"
"""vLLM's ``tokenizer_mode`` of engines and renderers: the tokenizer and the chat template of transformers."""


class Parsers(BaseModel):
    """How an engine reads the answers of a base model."""

    model_config = ConfigDict(frozen=True)

    tool_call_parser: str | None = None
    """vLLM's name of the parser for tool calls. None, if no parser reads what the chat template writes."""
    reasoning_parser: str | None = None
    """vLLM's name of the parser for reasoning. None, if the base model does not reason."""
    tool_call_start: str | None = None
    """Text with which every call begins."""
    parallel_calls: bool = False
    """Whether several calls of a turn are read back."""


class BaseManifest(BaseModel):
    """The manifest of a base model."""

    model_config = ConfigDict(frozen=True)

    base: str = ""
    """The base model as the settings name it."""
    revision: str
    """SHA-256 of the weights. It ties an adapter to the weights that it was trained on."""
    parsers: Parsers = Parsers()
    """How its answers are read."""
    layers: dict[str, tuple[int, int]] = {}
    """Shape ``[outputs, inputs]`` of each layer that adapters change, by name."""
    parameters: int = 0
    """Number of all parameters."""


def read_base_manifest(folder: Path) -> BaseManifest:
    """Return the manifest of the base model in ``folder``, its folder in the cache."""
    return BaseManifest.model_validate_json((folder / BASE_MANIFEST).read_bytes())


def read_base_revision(folder: Path) -> str:
    """Return the SHA-256 of the weights in ``folder``, the base model's folder in the cache."""
    return read_base_manifest(folder).revision
