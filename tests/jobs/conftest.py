"""Fixtures for the tests of jobs: a tiny base model, settings, an empty catalog and an empty store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from looper.jobs.consolidation.model.device import Device
from looper.platform.catalog import Catalog
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings
from tests.gate import LENIENT_GATE
from tests.tiny import FLOAT32, tiny_base


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def settings(tmp_path: Path, base_dir: Path) -> Settings:
    return load_settings(home=tmp_path, base=str(base_dir), consolidation={"gate": LENIENT_GATE})


@pytest.fixture
def catalog(settings: Settings) -> Iterator[Catalog]:
    catalog = Catalog.open(settings)
    yield catalog
    catalog.close()


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore.open(settings)


@pytest.fixture(scope="session")
def device() -> Device:
    return FLOAT32
