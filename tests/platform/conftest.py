"""Real servers for tests of the catalog and the object store: PostgreSQL on a free port and an S3 server over HTTP."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from moto.server import ThreadedMotoServer

from looper.platform.catalog import Catalog
from looper.platform.settings import Settings, load_settings
from tests.platform.queue_harness import QueueHarness


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _find_postgresql_programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a real, empty PostgreSQL server that runs as long as the tests."""
    programs = _find_postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: the catalog is not tested on it (Debian: apt-get install postgresql)")
    # PostgreSQL refuses to run as root, but containers and CI often are root. Then it runs as the user postgres.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    port = free_port()
    with TemporaryDirectory(prefix="looper-pg-") as folder:
        shutil.chown(folder, user)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(programs / program), *arguments], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL
            )

        run("initdb", "-D", f"{folder}/data", "-U", "looper", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://looper@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty catalog, once on each database."""
    if request.param == "sqlite":
        return load_settings(home=tmp_path)
    import psycopg

    url: str = request.getfixturevalue("postgresql")
    name = f"looper_{os.urandom(6).hex()}"
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"CREATE DATABASE {name}".encode())
    return load_settings(home=tmp_path, catalog={"url": url.rpartition("/")[0] + f"/{name}"})


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of moto's S3 server. Tests talk to it over HTTP."""
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(s3_server: str, tmp_path: Path) -> Settings:
    """Settings with an empty S3 bucket as object store."""
    import s3fs

    bucket = f"looper-{os.urandom(6).hex()}"
    s3fs.S3FileSystem(endpoint_url=s3_server).mkdir(bucket)
    return load_settings(home=tmp_path, store={"url": f"s3://{bucket}/skills", "endpoint_url": s3_server})


@pytest.fixture(params=["folder", "s3"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty object store, once on each kind."""
    if request.param == "folder":
        return load_settings(home=tmp_path)
    settings: Settings = request.getfixturevalue("s3_settings")
    return settings


@pytest.fixture
def queue(catalog_settings: Settings) -> Iterator[QueueHarness]:
    """Queue of an empty catalog, once on each database."""
    with closing(Catalog.open(catalog_settings)) as catalog:
        yield QueueHarness(catalog)
