"""On a cluster with GPUs of two types, engines and trainers are where the settings say."""

import json
import subprocess
import sys
from pathlib import Path


def test_each_pool_and_the_trainer_land_on_their_type_of_gpu(tmp_path: Path) -> None:
    subprocess.check_call([sys.executable, "-m", "tests.cluster.two_gpu_types", str(tmp_path)])
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "engines for rank 8": ["L4", 0.5],  # they share it with the trainer
        "engines for rank 16": ["A100", 1],
        "trainer": ["L4", 0.5],
        "second trainer": "0.5 GPUs of type L4: engines have 0.5 of 1, others 0.5",
    }
