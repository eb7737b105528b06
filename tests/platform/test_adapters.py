"""Adapters: publishing, fetching and verification."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from looper.platform.adapters import AdapterFiles, Manifest, fetch, publish
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings

SCORES = Scores(accuracy=None, loss=1.0, actions=0, tokens=40)
MANIFEST = Manifest(
    instance="acme/desk",
    base="b",
    base_revision="r",
    parent=None,
    consolidation="c" * 32,
    training_data=("b1",),
    recipe=Recipe(),
    verdict=GateVerdict(passed=True, reason="better", candidate=SCORES, current=SCORES),
    libraries={"peft": "0"},
)
FILES = AdapterFiles(weights=b"weights", config=b'{"r": 16, "lora_alpha": 16}', manifest=MANIFEST.to_bytes())


def test_a_published_adapter_can_be_fetched(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    digest = publish(store, "acme", FILES)
    assert publish(store, "acme", FILES) == digest
    assert fetch(store, "acme", digest) == FILES
    assert fetch(store, "acme", digest).read_manifest() == MANIFEST
    with pytest.raises(NotFound):
        fetch(store, "other", digest)


def test_the_digest_covers_every_file() -> None:
    changed = [
        AdapterFiles(b"weights!", FILES.config, FILES.manifest),
        AdapterFiles(FILES.weights, b'{"r": 8, "lora_alpha": 16}', FILES.manifest),
        AdapterFiles(FILES.weights, FILES.config, FILES.manifest + b" "),
    ]
    assert len({files.digest for files in [FILES, *changed]}) == 4


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_a_changed_byte_is_detected(tmp_path: Path, file: str) -> None:
    store = ObjectStore.open(load_settings(home=tmp_path))
    digest = publish(store, "acme", FILES)
    stored = tmp_path / "store" / keys.adapter("acme", digest, file)
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptAdapter, match=f"adapter {digest} of tenant acme is corrupt"):
        fetch(store, "acme", digest)


def weights(**shapes: list[int]) -> bytes:
    """A safetensors file with the factors ``A`` and ``B`` of these shapes."""
    factors = {f"model.q_proj.lora_{factor}.weight": np.zeros(shape, np.float32) for factor, shape in shapes.items()}
    return save(factors, metadata={"format": "pt"})


def test_an_adapter_s_rank_is_that_of_its_factors(tmp_path: Path) -> None:
    assert replace(FILES, weights=weights(A=[16, 30], B=[40, 16])).rank == 16
    for content in (
        b"",
        b"weights",
        b"\xff" * 100,
        weights(A=[8, 30], B=[40, 8]),
        weights(A=[16, 30], B=[40, 8]),
        weights(A=[16, 30], B=[]),
    ):
        with pytest.raises(InvalidInput, match=r"adapter .*(rank 16|is not what PEFT writes)"):
            _ = replace(FILES, weights=content).rank
    for config in (b"", b"{}", b'{"r": "many"}', b'{"r": 0, "lora_alpha": 1}', b"[" * 100_000):
        with pytest.raises(InvalidInput, match="is not what PEFT writes"):
            _ = replace(FILES, weights=weights(A=[16, 30], B=[40, 16]), config=config).rank


def test_no_more_than_max_bytes_are_read(store_settings: Settings) -> None:
    store = ObjectStore.open(store_settings)
    digest = publish(store, "acme", replace(FILES, weights=b"w" * 2000))
    assert len(fetch(store, "acme", digest, max_bytes=2000).weights) == 2000
    with pytest.raises(InvalidInput, match=f"adapter {digest}: adapter_model.safetensors is larger than 1999 bytes"):
        fetch(store, "acme", digest, max_bytes=1999)


def test_an_interrupted_publication_is_incomplete_and_can_be_repeated(tmp_path: Path) -> None:
    store = ObjectStore.open(load_settings(home=tmp_path))
    store.put(keys.adapter("acme", FILES.digest, "adapter_model.safetensors"), FILES.weights)
    with pytest.raises(NotFound, match="is incomplete"):
        fetch(store, "acme", FILES.digest)
    publish(store, "acme", FILES)
    assert fetch(store, "acme", FILES.digest) == FILES


def test_publish_detects_that_the_store_has_other_bytes(tmp_path: Path) -> None:
    """There is another object at the key of the weights, and ``put`` does not overwrite it."""
    store = ObjectStore.open(load_settings(home=tmp_path))
    store.put(keys.adapter("acme", FILES.digest, "adapter_model.safetensors"), b"garbled")
    with pytest.raises(CorruptAdapter):
        publish(store, "acme", FILES)


def test_a_read_only_store_raises_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreUnavailable, match="object store"):
        publish(ObjectStore.open(load_settings(home=tmp_path)), "acme", FILES)
