"""An adapter's two files, read as the engine reads them."""

import json

import pytest
import torch

from looper.jobs.consolidation.adapters.adapter_file import read_adapter_files, serialize_config, serialize_weights
from looper.jobs.consolidation.adapters.lora import Factors
from looper.platform.domain.errors import InvalidInput

LORA = {"model.layers.0.mlp.up_proj": Factors(torch.ones(4, 6), torch.ones(8, 4), scale=2.0)}


def config(**changes: object) -> bytes:
    return json.dumps(json.loads(serialize_config(LORA, "base")) | changes).encode()


def test_files_are_read_as_they_were_written() -> None:
    (read,) = read_adapter_files(serialize_weights(LORA), config()).values()
    (written,) = LORA.values()
    assert read.scale == written.scale
    assert torch.equal(read.update(), written.update())


def test_rslora_is_scaled_by_the_root_of_its_rank() -> None:
    (read,) = read_adapter_files(serialize_weights(LORA), config(use_rslora=True)).values()
    assert read.scale == 8.0 / 4**0.5


@pytest.mark.parametrize("wrong", [{"r": 0}, {"r": "many"}, {"lora_alpha": None}])
def test_a_wrong_config_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="the adapter's files cannot be read") as caught:
        read_adapter_files(serialize_weights(LORA), config(**wrong))
    assert "\n" not in str(caught.value)
