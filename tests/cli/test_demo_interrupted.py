"""Ctrl-C at each stage of the demo: no process keeps running, no result is lost, and the next run continues."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from looper.gym.generate import record_episodes
from looper.gym.workplaces import WORKPLACES
from tests.tiny import tiny_base

STAGES = ["base model", "ingest", "ray", "synthesize", "train", "serve"]
"""The test interrupts the demo just after each of these stages, which is in the following stage."""


class Demo:
    """The demo with the tiny base model, in its own process."""

    def __init__(self, folder: Path) -> None:
        tiny_base(folder / "base")
        for name, workplace in WORKPLACES.items():
            file = folder / "examples" / f"{name}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"".join(episode.to_jsonl() for episode in record_episodes(workplace, seed=0, tasks=10)))
        self.folder = folder

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "looper", "demo", "--examples", "examples", "--out", "out"],
            cwd=self.folder,
            env=os.environ | {"LOOPER_BASE": str(self.folder / "base"), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_the_demo_continues_after_ctrl_c_at_each_stage(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    for stage in STAGES:
        process = demo.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"✓ {stage}"):
                break
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 130, (stage, stderr)
        assert stderr.strip().splitlines()[-1].startswith("error: interrupted"), (stage, stderr)
        assert "Traceback" not in stderr, (stage, stderr)
        _, alive = psutil.wait_procs(descendants, timeout=20)
        assert alive == [], stage
        assert not (tmp_path / "out" / "demo.json").exists()

    process = demo.start()
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stdout + stderr
    report = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert {skill["model"] for skill in report["skills"]} == set(WORKPLACES)
    assert all(len(skill["digest"]) == 64 for skill in report["skills"])
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
