"""Clusters that cannot work: ``looper up`` says why in one line, and ``looper status`` tells what goes bad later."""

import json
from collections.abc import Iterator

import pytest
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from tests.cluster.lab.deployed import DeployedLooper, deployed_looper
from tests.cluster.lab.node import NOWHERE, Node
from tests.cluster.lab.services import S3_ADDRESS
from tests.cluster.test_several_nodes import SETTINGS

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

OTHER_RAY = """
import sys, types
sys.modules["ray._version"] = types.SimpleNamespace(version="2.9.3", commit="0" * 40)
"""
NO_LOOPER = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "looper":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
"""
STATUS_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def looper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedLooper]:
    """A lab of two nodes without Ray."""
    with deployed_looper(tmp_path_factory.mktemp("bad") / "lab", 2, SETTINGS, start_ray=False) as looper:
        yield looper


def refusal(looper: DeployedLooper, **settings: str) -> str:
    """Return the one line with which ``looper up`` refuses."""
    address = f"{looper.operator.address}:6379"
    arguments = ["looper", "up", "--address", address]
    done = looper.operator.run(arguments, environment=looper.environment | settings, timeout=300, check=False)
    assert done.returncode == 1, done.stdout
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.strip().endswith(line)
    return line


def patched(node: Node, code: str) -> dict[str, str]:
    """Return the environment in which each Python process of a node runs ``code`` first."""
    folder = node.folder / "home/patch"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{node.home}/patch:{node.environment['PYTHONPATH']}"}


def start_again(node: Node) -> None:
    """End everything on a node."""
    node.kill()
    node.restart()


def test_looper_up_says_in_one_line_what_is_wrong(looper: DeployedLooper) -> None:
    head, worker = looper.lab.nodes
    assert "cannot join a Ray at 198.51.100.10:6379: Connection refused" in refusal(looper)

    head.start_ray(cpus=0, environment=patched(head, OTHER_RAY))
    line = refusal(looper)
    assert "it is of another version than Ray" in line
    assert "2.9.3" in line
    start_again(head)

    head.start_ray(cpus=0)
    worker.start_ray(head, environment=patched(worker, NO_LOOPER))
    line = refusal(looper)
    assert "node node1 (198.51.100.11) cannot run Looper" in line
    assert "No module named 'looper'" in line
    start_again(worker)
    worker.start_ray(head)

    worker.ip(f"neigh replace {S3_ADDRESS} lladdr {NOWHERE} dev eth0 nud permanent")
    assert "node node1 (198.51.100.11) does not reach the object store" in refusal(looper)
    worker.ip(f"neigh del {S3_ADDRESS} dev eth0")

    for seconds, which in ((90, "90 s ahead of"), (-90, "90 s behind")):
        worker.move_clock(seconds)
        assert f"node node1 (198.51.100.11) has a clock {which} the catalog's" in refusal(looper)
    worker.move_clock(0)

    with worker.full_disk(".looper"):
        line = refusal(looper)
    assert "node node1 (198.51.100.11) has 0.0 GB free" in line

    assert "H100" in (line := refusal(looper, LOOPER_SERVE__ACCELERATOR_TYPE="H100"))
    assert "add such GPUs" in line
    line = refusal(looper, LOOPER_STORE__URL="/somewhere", LOOPER_STORE__ENDPOINT_URL="")
    assert "every node would have a folder of its own" in line


def test_looper_status_tells_what_goes_bad_later(looper: DeployedLooper) -> None:
    _, worker = looper.lab.nodes
    looper.up()
    assert find_alert(looper, "") == ""
    worker.move_clock(90)
    assert find_alert(looper, "has a clock")
    worker.move_clock(0)
    with worker.full_disk(".looper"):
        assert find_alert(looper, "GB free")
    worker.ip(f"neigh replace {S3_ADDRESS} lladdr {NOWHERE} dev eth0 nud permanent")
    assert find_alert(looper, "does not reach the object store")
    worker.ip(f"neigh del {S3_ADDRESS} dev eth0")


def find_alert(looper: DeployedLooper, words: str) -> str:
    """Wait until ``looper status`` has an alert with some words, and no other; without words, until it has none."""

    @retry(
        stop=stop_after_delay(STATUS_TIMEOUT_S),
        wait=wait_fixed(2),
        retry=retry_if_result(lambda found: found is None),
    )
    def look() -> str | None:
        report = json.loads(looper.looper("status", "--json"))["report"]
        problems: list[str] = report["problems"] if report else ["no report yet"]
        if not words:
            return None if problems else ""
        return next((problem for problem in problems if words in problem), None)

    return look() or ""
