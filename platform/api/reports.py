"""Reads the report on the training data of a consolidation, which synthesis writes. The API and commands call it."""

from typing import Final

from looper.platform.api.models import ReportFormat
from looper.platform.domain.errors import NotFound
from looper.platform.objectstore import ObjectStore, keys

REPORT_TYPES: Final[dict[ReportFormat, str]] = {"json": "application/json", "html": "text/html; charset=utf-8"}
"""Media type of each form."""


def read_report(store: ObjectStore, id: str, format: ReportFormat) -> bytes:
    """Read a report.

    Args:
        store: Object store of the cluster.
        id: Id of a consolidation.
        format: Form of the report.

    Returns:
        The report.

    Raises:
        NotFound: There is none yet.
    """
    try:
        return store.get(keys.examples(id, f"report.{format}"))
    except NotFound as error:
        raise NotFound(f"consolidation {id} has no report, or none yet: looper jobs show {id}") from error
