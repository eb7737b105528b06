"""The lab itself: its nodes are separate, see the services, and what is done to one is seen from the other."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tenacity import retry, stop_after_delay, wait_fixed

from tests.cluster.lab import Lab, Machine
from tests.cluster.lab.node import create_ssh_key

PORT = 8080
SAY_HELLO = """
import socketserver, sys
class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer((sys.argv[1], int(sys.argv[2])), Hello).serve_forever()
"""
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5) as connection:
        print(connection.recv(99).decode())
except OSError as error:
    print(type(error).__name__)
"""
HOLD = """
import sys, json, os, time
from pathlib import Path
from tests.cluster.lab import Lab
with Lab(Path(sys.argv[1]), nodes=2) as lab:
    lab.nodes[0].start(["sh", "-c", "setsid sleep 1000 & setsid sleep 1001"])
    lab.nodes[1].freeze()
    machines = [lab.services, *lab.nodes]
    kinds = ("net", "pid", "mnt")
    print(json.dumps([os.readlink(f"/proc/{each.pid}/ns/{kind}") for each in machines for kind in kinds]), flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), nodes=2) as lab:
        yield lab


@pytest.fixture
def hello(lab: Lab) -> Iterator[None]:
    """A server on the second node that greets whoever connects."""
    node = lab.nodes[1]
    server = node.start([sys.executable, "-S", "-c", SAY_HELLO, node.address, f"{PORT}"])
    node.wait_for_port(PORT)
    yield
    server.kill()


def ask(machine: Machine, address: str, port: int = PORT) -> str:
    """Return what a server says within 1.5 s, or the name of the error."""
    return machine.run([sys.executable, "-S", "-c", ASK, address, f"{port}"]).stdout.strip()


def in_use() -> set[str]:
    """The namespaces of all processes of this machine."""
    found = set()
    for process in psutil.pids():
        for kind in ("net", "pid", "mnt"):
            with contextlib.suppress(OSError):
                found.add(str(Path(f"/proc/{process}/ns/{kind}").readlink()))
    return found


def test_nodes_have_an_address_a_name_and_files_of_their_own(lab: Lab) -> None:
    first, second = lab.nodes
    assert [node.run(["hostname"]).stdout.strip() for node in lab.nodes] == ["node0", "node1"]
    assert [node.address for node in lab.nodes] == ["198.51.100.10", "198.51.100.11"]
    for folder in (first.home, Path("/tmp"), Path("/dev/shm")):
        first.run(["touch", folder / "of-node0"])
        second_files = second.run(["find", "/home", "/tmp", "/dev/shm", "-name", "of-node0"]).stdout
        assert second_files == ""
    assert second.run(["test", "-e", first.home], check=False).returncode == 1, "no path of a node's own is on another"
    assert int(first.run(["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).stdout) < 10
    assert first.run(["getent", "hosts", "node1"]).stdout.split() == [second.address, "node1"]


def test_a_node_has_the_project_read_only_and_nothing_of_the_driver(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for node in lab.nodes:
        assert node.run(["test", "-e", tmp_path], check=False).returncode == 1
        assert node.python("import looper; print(looper.__file__)").endswith("/looper/__init__.py")
        code = "import looper, pathlib; pathlib.Path(looper.__file__).with_name('new').touch()"
        assert "Read-only file system" in node.run([sys.executable, "-c", code], check=False).stderr


def test_no_packet_leaves_the_lab(lab: Lab) -> None:
    for machine in (lab.services, *lab.nodes):
        routes = machine.run(["ip", "route"]).stdout.strip().splitlines()
        assert [route.split()[0] for route in routes] == ["198.51.100.0/24"]
        assert ask(machine, "192.0.2.1") == "OSError", "the network is unreachable"
    assert "198.51.100." not in subprocess.run(["ip", "addr"], capture_output=True, text=True).stdout


def test_postgresql_is_reached_from_each_node(lab: Lab) -> None:
    url = lab.services.start_postgresql()
    for node in lab.nodes:
        code = f"import psycopg; print(psycopg.connect('{url}').execute('SELECT inet_client_addr()').fetchone()[0])"
        assert node.python(code) == node.address


def test_s3_is_reached_from_each_node(lab: Lab) -> None:
    environment = lab.services.start_s3()
    first, second = lab.nodes
    code = "import s3fs; files = s3fs.S3FileSystem(); "
    first.python(code + "files.pipe('lab/from-node0', b'bytes of node0')", environment=environment)
    read = second.python(code + "print(files.cat('lab/from-node0').decode())", environment=environment)
    assert read == "bytes of node0"


def test_redis_is_reached_from_each_node(lab: Lab) -> None:
    address = lab.services.start_redis()
    for node in lab.nodes:
        assert node.run(["redis-cli", "-u", f"redis://{address}", "ping"]).stdout.strip() == "PONG"


@pytest.mark.usefixtures("hello")
def test_a_frozen_node_accepts_and_does_not_answer(lab: Lab) -> None:
    first, second = lab.nodes
    assert ask(first, second.address) == "hello"
    with second.frozen():
        assert ask(first, second.address) == "TimeoutError"
    assert ask(first, second.address) == "hello"


@pytest.mark.usefixtures("hello")
def test_a_node_that_is_cut_off_loses_every_packet(lab: Lab) -> None:
    first, second = lab.nodes
    second.cut_off()
    assert ask(first, second.address) == "TimeoutError"
    assert ask(second, second.address) == "hello"
    second.heal()
    assert ask(first, second.address) == "hello"


@pytest.mark.usefixtures("hello")
def test_a_node_can_be_cut_off_from_one_machine_only(lab: Lab) -> None:
    first, second = lab.nodes
    second.cut_off_from(first)
    assert ask(first, second.address) == "TimeoutError"
    assert ask(lab.services, second.address) == "hello"
    second.heal(first)
    assert ask(first, second.address) == "hello"


@pytest.mark.usefixtures("hello")
def test_a_killed_node_starts_again_with_its_home_only(lab: Lab) -> None:
    first, second = lab.nodes
    second.run(["touch", second.home / "kept", "/tmp/lost"])
    second.kill()
    assert second.processes() == []
    assert ask(first, second.address) in ("OSError", "TimeoutError"), "nobody answers, not even to refuse"
    second.restart()
    assert ask(first, second.address) == "ConnectionRefusedError"
    left = second.run(["ls", second.home / "kept", "/tmp/lost"], check=False).stdout.strip()
    assert left == str(second.home / "kept")


def test_the_clock_of_one_node_moves(lab: Lab) -> None:
    first, second = lab.nodes
    second.move_clock(90)
    there, here = (float(node.python("import time; print(time.time())")) for node in (second, first))
    second.move_clock(0)
    assert there - here > 60


def test_a_full_disk_takes_nothing_more(lab: Lab) -> None:
    node = lab.nodes[1]
    write = ["dd", "if=/dev/zero", f"of={node.home}/.cache/more", "bs=4k", "count=1"]
    with node.full_disk(".cache"):
        assert "No space left on device" in node.run(write, check=False).stderr
    assert node.run(write).returncode == 0


def test_ssh_goes_from_node_to_node(lab: Lab, tmp_path: Path) -> None:
    key = create_ssh_key(tmp_path)
    for node in lab.nodes:
        node.start_sshd(key)
    hop = lab.nodes[0].run(["ssh", "node1", "hostname; python -c 'import looper'; echo $RAY_AUTH_MODE"])
    assert hop.stdout.split() == ["node1", "disabled"]


@pytest.mark.bench
def test_ray_runs_over_the_nodes(lab: Lab) -> None:
    head, worker = lab.nodes
    head.start_ray(resources={"engines": 1})
    worker.start_ray(head, resources={"trainers": 1})
    code = """
import json, ray
ray.init(address="auto", log_to_driver=False)
where = ray.remote(num_cpus=0)(ray.util.get_node_ip_address)
print(json.dumps([ray.get(where.options(resources={name: 1}).remote()) for name in ("engines", "trainers")]))
"""
    for node in (head, worker):
        assert json.loads(node.python(code)) == [head.address, worker.address]


def test_nothing_is_left_of_a_lab_whose_process_is_killed(lab: Lab, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lab"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    namespaces = set(json.loads(holder.stdout.readline()))
    assert len(namespaces) == 9
    assert namespaces <= in_use()
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    @retry(wait=wait_fixed(0.05), stop=stop_after_delay(20), reraise=True)
    def nothing_left() -> None:
        assert not namespaces & in_use()

    nothing_left()
    assert Path("/proc/self/mountinfo").read_text() == before
    assert lab.nodes[0].run(["true"]).returncode == 0, "another lab is not touched"
