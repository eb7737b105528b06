"""``looper status`` shows the same of a Looper on a machine of it and from a laptop."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import REPORT
from looper.platform.domain.cluster_report import ClusterReport, DeploymentReport, NodeReport, Wait
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.scopes import Scope
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.cli.both_ways import Ran, run, serve_home

FOUND = ClusterReport(
    nodes=[
        NodeReport(name="a", address="192.0.2.1", roles=["engines"], cpus=8, gpus=2, gpu_type="H100", is_head=False)
    ],
    deployments=[DeploymentReport(name="gateway", status="HEALTHY", replicas={"RUNNING": 2}, message="")],
    waiting=[Wait(what="a trainer", resources={"GPU": 1.0}, since=datetime(2026, 11, 30, 9, 15, tzinfo=UTC))],
    problems=["node b (192.0.2.2) has a clock 90 s ahead of the catalog's: synchronize it"],
    ray="2.60.0",
)
LINES = [
    "control loop loop-1 leads",
    "node  address    cpus  gpus    roles",
    "a     192.0.2.1  8     2 H100  engines",
    "gateway: 2 running, healthy",
    "a trainer waits since 2026-11-30 09:15:00 UTC for 1 GPU",
    "alert: node b (192.0.2.2) has a clock 90 s ahead of the catalog's: synchronize it",
]
OF_THIS_MACHINE = {"cluster", "existing_ray", "home"}


class Served(NamedTuple):
    """A Looper that runs on this machine, and is reached over HTTP."""

    home: Path
    url: str
    catalog: Catalog

    def status(self, *arguments: str) -> Ran:
        """What it says on this machine."""
        return run("status", *arguments, folder=self.home, LOOPER_HOME=str(self.home))

    def remote_status(self, *arguments: str, tenant: str | None = None) -> Ran:
        """What it says to an operator elsewhere, or to a tenant."""
        scopes = {Scope.ADMIN} if tenant else {Scope.OPERATOR}
        at = {"LOOPER_URL": self.url, "LOOPER_KEY": issue_key(self.catalog, tenant, scopes=scopes)}
        return run("status", *arguments, folder=self.home, LOOPER_HOME=str(self.home / "laptop"), **at)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve_home(tmp_path) as url, closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        catalog.create_tenant("acme")
        yield Served(tmp_path, url, catalog)


def test_a_laptop_sees_what_a_machine_of_the_cluster_sees(served: Served) -> None:
    catalog = served.catalog
    assert catalog.lead("loop-1", lease_s=60)
    catalog.add_trainer("t", "queue", "some/base", TrainerShape.PLAIN)
    catalog.record_trainer_failure("other/base", TrainerShape.PLAIN, "no GPU is free", delay_s=2, max_delay_s=10)
    catalog.save_cluster_report(REPORT, FOUND.model_dump(mode="json"))
    here, there = served.status(), served.remote_status()
    assert (here.status, here.err, there.status, there.err) == (0, "", 0, "")
    first, *lines = here.out.splitlines()
    assert first.startswith(f"up at {served.url}, healthy, pid ")
    assert [line.rstrip() for line in lines[: len(LINES)]] == LINES
    assert any(line.startswith("alert: no GPU is free (1 times, next attempt at ") for line in lines)
    assert there.out.splitlines() == [f"up at {served.url}, healthy", *lines]
    of_here, of_there = (json.loads(ran.out) for ran in (served.status("--json"), served.remote_status("--json")))
    assert of_here.pop("report_age_s") <= of_there.pop("report_age_s")
    assert of_here == {name: of_here[name] for name in OF_THIS_MACHINE} | of_there


def test_a_tenant_may_not_look(served: Served) -> None:
    refused = served.remote_status(tenant="acme")
    assert refused.status == 1
    assert refused.err.startswith("error: the key lacks scope operator, it has admin")
