"""Migrates the catalog for what brings Looper up, unless a Looper runs that could not go on with the new schema."""

import math
from contextlib import closing
from typing import Any

from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import DEPLOYED, REPORT
from looper.platform.catalog.schema import newest_schema
from looper.platform.domain.cluster_report import DeployedFrom
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings

MAX_REPORT_AGE_S = 30.0
"""A control loop that has not reported for longer, in seconds, is taken for one that has ended."""

_REPORTS_SINCE = "0007"
"""Revision of the schema that has reports."""


def migrate_catalog(settings: Settings) -> None:
    """Bring the catalog's schema to that of this release.

    Args:
        settings: Settings with the catalog.

    Raises:
        InvalidInput: A Looper runs that could not go on with the new schema, or the schema is of a newer release.
        StoreUnavailable: The catalog cannot be opened.
    """
    if problem := find_conflict(settings):
        raise InvalidInput(problem)
    Catalog.open(settings, older="migrate").close()


def find_conflict(settings: Settings) -> str | None:
    """Return why the catalog must not be migrated now, or None.

    Args:
        settings: Settings with the catalog.

    Returns:
        The reason and the way out, in one line.
    """
    running, mine = read_deployed(settings), newest_schema()
    if running is None or running.schema_revision >= str(mine.compatible_since):
        return None
    if read_report(settings, REPORT, max_age_s=MAX_REPORT_AGE_S) is None:
        return None
    return (
        f"Looper {running.looper} runs, and could not go on with schema {mine.revision} of the catalog: end it "
        "first (looper down), or upgrade by way of a release between the two"
    )


def read_deployed(settings: Settings) -> DeployedFrom | None:
    """Return what Looper was deployed from last, or None if that is not known.

    Args:
        settings: Settings with the catalog, which may have an older schema.
    """
    found = read_report(settings, DEPLOYED)
    return DeployedFrom.model_validate(found) if found else None


def read_report(settings: Settings, name: str, *, max_age_s: float = math.inf) -> dict[str, Any] | None:
    """Return a report in the catalog, whatever its schema.

    Args:
        settings: Settings with the catalog.
        name: Name of the report.
        max_age_s: Maximum age of the report in seconds.

    Returns:
        The report. None if there is none, or an older one, or if the schema has none yet.
    """
    with closing(Catalog.open(settings, older="accept")) as catalog:
        if (catalog.read_schema().revision or "") < _REPORTS_SINCE:
            return None
        found = catalog.get_cluster_report(name)
        if found is None or (catalog.now() - found[1]).total_seconds() > max_age_s:
            return None
        return found[0]
