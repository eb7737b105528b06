"""Fixtures of the tests of base models."""

from pathlib import Path

import pytest

from tests.tiny import tiny_base


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny base model."""
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")
