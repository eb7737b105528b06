"""Real servers for tests of the catalog and the object store: PostgreSQL on a free port and an S3 server over HTTP."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from looper.platform.catalog import Catalog
from looper.platform.settings import Settings, load_settings
from tests.platform.postgresql import PostgresqlServer, free_port, run_postgresql
from tests.platform.queue_harness import QueueHarness


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A real PostgreSQL server that runs as long as the tests."""
    with run_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_settings(postgresql: PostgresqlServer, tmp_path: Path) -> Settings:
    """Settings with an empty catalog on PostgreSQL."""
    return load_settings(home=tmp_path, catalog={"url": postgresql.create_database()})


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty catalog, once on each database."""
    if request.param == "sqlite":
        return load_settings(home=tmp_path)
    settings: Settings = request.getfixturevalue("postgresql_settings")
    return settings


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
