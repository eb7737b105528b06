"""Cores are divided between CPU engines and everything else."""

import pytest

from looper.serve.cpu.cores import BIND_VARIABLE, bound_cores, engine_cores, format_binding, other_cores


def test_engines_have_all_cores_but_one() -> None:
    assert engine_cores({3, 0, 5}) == [3, 5]
    assert other_cores({3, 0, 5}) == {0}


def test_a_single_core_is_shared() -> None:
    assert engine_cores({4}) == [4]
    assert other_cores({4}) == {4}


@pytest.mark.parametrize(
    ("value", "cores"), [(format_binding({0, 1, 2}), [1, 2]), ("nobind", []), ("auto", []), ("", [])]
)
def test_an_engine_finds_its_cores_in_its_environment(
    value: str, cores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BIND_VARIABLE, value)
    assert bound_cores() == cores
