"""The three files of an adapter, and the digest that names them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from looper.platform.domain.consolidation import GateVerdict, StoredRecipe
from looper.platform.domain.errors import CorruptAdapter, InvalidInput

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
FILES = (WEIGHTS, CONFIG, MANIFEST)


class Manifest(BaseModel):
    """Where an adapter comes from. It holds no clock, so that publishing the same result twice gives one digest."""

    model_config = ConfigDict(frozen=True)

    instance: str
    base: str
    base_revision: str
    """Digest of the base model's weights."""
    parent: str | None
    consolidation: str
    training_data: tuple[str, ...]
    """Ids of the batches: digests of their content."""
    recipe: StoredRecipe
    verdict: GateVerdict
    libraries: dict[str, str]

    def to_bytes(self) -> bytes:
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter as PEFT writes it and vLLM loads it, with its manifest."""

    weights: bytes
    config: bytes
    manifest: bytes

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "AdapterFiles":
        return cls(files[WEIGHTS], files[CONFIG], files[MANIFEST])

    def by_name(self) -> dict[str, bytes]:
        return {WEIGHTS: self.weights, CONFIG: self.config, MANIFEST: self.manifest}

    @property
    def digest(self) -> str:
        """SHA-256 over the files' names and SHA-256s, in the form ``sha256sum`` prints them."""
        lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(self.by_name().items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def read_manifest(self) -> Manifest:
        try:
            return Manifest.model_validate_json(self.manifest)
        except ValidationError as error:
            raise CorruptAdapter(f"adapter {self.digest}: {MANIFEST} is not a manifest: {error}") from error

    @property
    def rank(self) -> int:
        """Of all factors. Raises InvalidInput where they have another than the config says, or cannot be read.

        Safetensors begin with the length of a header, in which each tensor has its shape.
        """
        length = int.from_bytes(self.weights[:8], "little")
        try:
            rank = _LoraConfig.model_validate_json(self.config).r
            tensors = _HEADER.validate_json(self.weights[8 : 8 + length])
        except ValidationError as error:
            raise InvalidInput(f"adapter {self.digest}: {CONFIG} or {WEIGHTS} is not what PEFT writes") from error
        for name, tensor in tensors.items():
            if isinstance(tensor, _Tensor) and tensor.shape[-1 if ".lora_B." in name else 0] != rank:
                raise InvalidInput(
                    f"adapter {self.digest}: {name} has the shape {list(tensor.shape)}, and rank {rank} in {CONFIG}"
                )
        return rank


class _LoraConfig(BaseModel):
    """Of PEFT's, what is read here."""

    r: int


class _Tensor(BaseModel):
    shape: tuple[int, ...] = Field(min_length=1)


_HEADER = TypeAdapter(dict[str, _Tensor | dict[str, str]])
"""By name; ``__metadata__`` is no tensor."""
