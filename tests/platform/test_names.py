"""Names of instances and models: parsing, formatting and refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName, ModelName

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text", ["../x", "a/b/c", "a", "", "/", "a/", "/a", "A/b", "a/..", "a/b c", "-a/b", "a/b\n", "ä/b"]
)
def test_invalid_instance_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        InstanceName.parse(text)


@pytest.mark.parametrize("text", ["a/b", "acme/help-desk", "0/0", f"{'a' * 63}/b_c"])
def test_instance_names_round_trip(text: str) -> None:
    assert str(InstanceName.parse(text)) == text


@pytest.mark.parametrize("text", ["a/b", "a/b@canary", f"a/b@{DIGEST}"])
def test_model_names_round_trip(text: str) -> None:
    assert str(ModelName.parse(text)) == text


def test_the_plain_name_means_prod() -> None:
    assert ModelName.parse("a/b@prod") == ModelName.parse("a/b")


@pytest.mark.parametrize("text", ["a/b@", "a/b@c@d", "a/b@../c", "a/b@c/d"])
def test_invalid_model_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        ModelName.parse(text)


@given(st.text())
def test_any_accepted_text_is_two_safe_path_segments(text: str) -> None:
    try:
        tenant, instance = InstanceName.parse(text)
    except InvalidInput:
        return
    assert all(part not in ("", ".", "..") and "/" not in part and "\\" not in part for part in (tenant, instance))
