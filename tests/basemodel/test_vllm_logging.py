"""vLLM's messages do not get into the output of commands."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
from pathlib import Path
from looper.basemodel import prepare
print(prepare(sys.argv[1], Path(sys.argv[2])))
assert not any(name.startswith("VLLM_LOGGING") for name in os.environ)
"""


def test_preparing_a_base_model_prints_nothing_of_vllm(base_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(base_dir), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()).parent == tmp_path
    assert "INFO" not in ran.stderr
