"""A cluster with one GPU serves and trains on it. The GPU is Ray's number only; vLLM's CPU kernels are behind it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_base

SCRIPT = """
import os, sys, threading, time
from pathlib import Path
import openai, ray
from looper.cluster import head
from looper.cluster.state import ClusterState, process_start, read_state, write_state
from looper.jobs.consolidation.training import training_run
from looper.platform.catalog import Catalog
from looper.platform.client import Client
from looper.platform.domain.recipe import Recipe
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.serve.live import HELLO
from tests.test_loop import RECIPE, write_trajectories

folder, base = Path(sys.argv[1]), sys.argv[2]
init, torch_config = ray.init, training_run.TorchConfig
ray.init = lambda **options: init(**options, num_gpus=1)
training_run.TorchConfig = lambda backend: torch_config(backend={"nccl": "gloo"}[backend])  # a CPU build has no NCCL
settings = load_settings(
    home=folder / "home",
    base=base,
    serve={"port": 0, "max_lora_rank": 8, "max_num_seqs": 4, "engine": {"gpu_memory_utilization": 0.05}},
)
settings.home.mkdir()
write_state(settings, ClusterState(pid=os.getpid(), started=process_start(os.getpid()), phase="starting"))
catalog, stop = Catalog.open(settings), threading.Event()
found = []


def use():
    try:
        while (state := read_state(settings)).phase != "up":
            time.sleep(0.2)
        catalog.create_tenant("harbor")
        key = issue_key(catalog, "harbor")
        with Client(state.url, key) as client:
            client.ingest("dispatch", write_trajectories(folder, "harbor/dispatch", tasks=12))
            [job] = client.consolidate(["dispatch"], recipe=RECIPE)
        while not (job := catalog.get_consolidation(job.id)).state.is_final:
            time.sleep(0.2)
        with openai.OpenAI(base_url=f"{state.url}/v1", api_key=key, timeout=120) as api:
            answer = api.chat.completions.create(model="harbor/dispatch", messages=HELLO, max_tokens=4)
        found.extend([job.state, answer.model, state.gpus])
    finally:
        stop.set()


threading.Thread(target=use, daemon=True).start()
head.run_head(settings, stop)
print("found", *found, sep="|")
"""


@pytest.mark.timeout(600)
def test_one_gpu_serves_and_trains(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(base)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    last = ran.stdout.splitlines()[-1]
    assert last.startswith("found|published|harbor/dispatch|engines and trainers share GPUs: 50%"), last
