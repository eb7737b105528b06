"""Cores are divided between CPU engines and all else."""

import pytest

from looper.serve.cpu.cores import BIND, bound, engines, others, to_bind


def test_engines_have_all_cores_but_one() -> None:
    assert engines({3, 0, 5}) == [3, 5]
    assert others({3, 0, 5}) == {0}


def test_a_single_core_is_shared() -> None:
    assert engines({4}) == [4]
    assert others({4}) == {4}


@pytest.mark.parametrize(("value", "cores"), [(to_bind({0, 1, 2}), [1, 2]), ("nobind", []), ("auto", []), ("", [])])
def test_an_engine_finds_its_cores_in_its_environment(
    value: str, cores: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BIND, value)
    assert bound() == cores
