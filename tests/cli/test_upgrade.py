"""``looper upgrade`` on the command line; tests/cluster has what is in a plan."""

import json
import sqlite3

from tests.cli.conftest import Home


def test_a_plan_changes_nothing_and_an_older_catalog_waits_for_the_upgrade(home: Home) -> None:
    home.ok("tenant", "create", "acme")
    assert "nothing to do" in home.ok("upgrade")
    with sqlite3.connect(home.folder / "home" / "catalog.sqlite") as sql:
        sql.execute("UPDATE schema_version SET version_num = '0000'")
    assert "of an older release" in home.refused("tenant", "list")
    (step,) = json.loads(home.ok("upgrade", "--plan", "--json"))["steps"]
    assert (step["part"], step["before"]) == ("catalog", "0000")
    assert "of an older release" in home.refused("tenant", "list"), "a plan changes nothing"
