"""``looper doctor`` says what agents on a base model can be taught."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from looper.basemodel.diagnosis import diagnose
from tests.tiny import PARSERS


def test_the_tiny_base_can_be_taught_all(base_dir: Path) -> None:
    found = diagnose(base_dir)
    assert found.architecture == "LlamaForCausalLM"
    assert found.adapted == dict.fromkeys(
        ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"), 2
    )
    assert 0.5 < found.adapted_share < 1
    assert found.roles == ("system", "developer")
    assert found.keeps_history
    assert found.parsers == PARSERS
    assert found.tool_calls == "yes, several in a turn"
    assert found.reasoning == "left out: the chat template writes none"


def looper_doctor(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "looper", "doctor", *arguments]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
def test_the_command_shows_it(base_dir: Path, tmp_path: Path) -> None:
    shown = looper_doctor(tmp_path, str(base_dir), "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["tool_calls"] == "yes, several in a turn"
    (tmp_path / "empty").mkdir()
    refused = looper_doctor(tmp_path, str(tmp_path / "empty"))
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: base model '")
