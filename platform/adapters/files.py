"""The three files of an adapter, its manifest, and the digest that identifies it.

Training builds them, ``publish.py`` moves them to and from the object store, and serving reads them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import safetensors
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from looper.platform.domain.adapter_digest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, digest_of
from looper.platform.domain.errors import CorruptAdapter, InvalidInput
from looper.platform.domain.recipe import StoredRecipe
from looper.platform.domain.scores import GateVerdict


class Manifest(BaseModel):
    """Origin of an adapter. It contains no times, so that publishing the same result twice gives the same digest."""

    model_config = ConfigDict(frozen=True)

    instance: str
    """Instance, as ``tenant/instance``."""
    base: str
    """Base model, as the settings name it."""
    base_revision: str
    """Digest of the base model's weights."""
    parent: str | None
    """Digest of the version that training started from. None: the base model."""
    consolidation: str
    """Id of the consolidation."""
    training_data: tuple[str, ...]
    """Ids of the trajectory batches, which are digests of their content."""
    recipe: StoredRecipe
    """Hyperparameters of the training."""
    start: str | None = Field(None, exclude_if=lambda digest: digest is None)
    """Digest of the start that training began from. None: it began from ``parent`` or from a random adapter."""
    verdict: GateVerdict
    """Verdict of the gate."""
    libraries: dict[str, str]
    """Version of each library that took part in training, by name."""

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON with sorted keys."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


class LoraConfig(BaseModel):
    """The fields of PEFT's ``adapter_config.json`` that Looper reads."""

    r: int = Field(ge=1)
    """LoRA rank."""
    lora_alpha: float
    """LoRA alpha."""
    use_rslora: bool = False
    """Whether the update is scaled as in rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732)."""

    @property
    def scaling(self) -> float:
        """Factor of the update ``B A``: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class RawTensor(NamedTuple):
    """A tensor as the safetensors format stores it."""

    dtype: str
    """Type, by its safetensors name: ``F32``, ``F16``, ``BF16``, ..."""
    shape: tuple[int, ...]
    """Shape."""
    data: bytes | bytearray
    """Elements, little-endian, in row-major order."""


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter in PEFT's format, which vLLM loads, with its manifest."""

    weights: bytes
    """Content of ``adapter_model.safetensors``."""
    config: bytes
    """Content of ``adapter_config.json``."""
    manifest: bytes
    """Content of ``manifest.json``."""

    @classmethod
    def from_dict(cls, files: Mapping[str, bytes]) -> "AdapterFiles":
        """Return the adapter whose files have the contents ``files``, by file name."""
        return cls(files[WEIGHTS_FILE], files[CONFIG_FILE], files[MANIFEST_FILE])

    def to_dict(self) -> dict[str, bytes]:
        """Return the contents of the files, by file name."""
        return {WEIGHTS_FILE: self.weights, CONFIG_FILE: self.config, MANIFEST_FILE: self.manifest}

    @property
    def digest(self) -> str:
        """SHA-256 of the text that ``sha256sum`` prints for the files, sorted by name."""
        return digest_of({name: hashlib.sha256(content).hexdigest() for name, content in self.to_dict().items()})

    def read_manifest(self) -> Manifest:
        """Return the parsed manifest.

        Raises:
            CorruptAdapter: The file is not a manifest.
        """
        try:
            return Manifest.model_validate_json(self.manifest)
        except ValidationError as error:
            raise CorruptAdapter(f"adapter {self.digest}: {MANIFEST_FILE} is not a manifest: {error}") from error

    @property
    def rank(self) -> int:
        """LoRA rank that the config states and that all factors have.

        Raises:
            InvalidInput: A file cannot be read, or a factor has another rank than the config states.
        """
        rank = self.read_lora_config().r
        for name, tensor in self.read_tensors().items():
            rank_axis = -1 if ".lora_B." in name else 0
            if not tensor.shape or tensor.shape[rank_axis] != rank:
                raise InvalidInput(
                    f"adapter {self.digest}: {name} has the shape {list(tensor.shape)}, but {CONFIG_FILE} has rank "
                    f"{rank}"
                )
        return rank

    def read_lora_config(self) -> LoraConfig:
        """Return the fields of ``adapter_config.json`` that Looper reads.

        Raises:
            InvalidInput: The file is not a LoRA config.
        """
        try:
            return LoraConfig.model_validate_json(self.config)
        except ValidationError as error:
            raise InvalidInput(f"adapter {self.digest}: {CONFIG_FILE} is not what PEFT writes") from error

    def read_tensors(self) -> dict[str, RawTensor]:
        """Return the tensors of ``adapter_model.safetensors``, by name. Their data is copied.

        Raises:
            InvalidInput: The file is not in the safetensors format.
        """
        try:
            tensors = safetensors.deserialize(self.weights)  # type: ignore[no-untyped-call]
        except safetensors.SafetensorError as error:
            raise InvalidInput(f"adapter {self.digest}: {WEIGHTS_FILE} is not what PEFT writes: {error}") from error
        return {name: RawTensor(tensor["dtype"], tuple(tensor["shape"]), tensor["data"]) for name, tensor in tensors}
