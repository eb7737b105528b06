"""The Dockerfiles pass their linter, and it finds a typo."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_rooms import ROOT

HADOLINT = Path(sys.executable).with_name("hadolint")


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "-"], input=text, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_it_is_right_and_a_typo_is_found(name: str) -> None:
    text = (ROOT / name).read_text()
    assert hadolint(text).returncode == 0
    for right, wrong in (("\nENV PATH", "\nEVN PATH"), ("USER 10001", "USR 10001"), (" AS build", " SA build")):
        assert right in text
        assert hadolint(text.replace(right, wrong)).returncode != 0
