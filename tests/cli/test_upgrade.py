"""``looper upgrade`` on the command line; tests/cluster has what is in a plan."""

import json
import sqlite3

from looper.platform.catalog import Catalog
from looper.platform.settings import load_settings
from tests.cli.conftest import Home


def test_a_plan_shows_an_older_catalog_and_does_not_change_it(home: Home) -> None:
    Catalog.open(load_settings(home=home.folder / "home")).close()
    with sqlite3.connect(home.folder / "home" / "catalog.sqlite") as sql:
        sql.execute("UPDATE schema_version SET version_num = '0000'")
    with sqlite3.connect(home.folder / "home" / "catalog.sqlite") as sql:
        (step,) = json.loads(home.ok("upgrade", "--plan", "--json"))["steps"]
        assert (step["part"], step["before"]) == ("catalog", "0000")
        assert sql.execute("SELECT version_num FROM schema_version").fetchone() == ("0000",)
