"""Catalog operations that list in pages, each with a constant number of queries. For the API and the command line.

A page goes on after the last row of the page before, by the columns that the list is sorted by. Rows that are added or
removed meanwhile do not shift it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, false, func, select, tuple_

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import InstanceOverview, SkillSummary
from looper.platform.domain.names import PROD, InstanceName
from looper.platform.domain.version import Version

Row = TypeVar("Row")

PAGE_ROWS = 500
"""Number of rows that ``iterate_pages`` asks for at a time."""


def iterate_pages(
    fetch: Callable[[Any, int], Sequence[Row]], key: Callable[[Row], Any], limit: int = PAGE_ROWS
) -> Iterator[Row]:
    """Iterate over a list that is fetched page by page.

    Args:
        fetch: Returns the page after a key, None for the first page, with a maximum length.
        key: Returns the key of a row.
        limit: Maximum length of a page.

    Yields:
        All rows of the list.
    """
    after = None
    while page := fetch(after, limit):
        yield from page
        if len(page) < limit:
            return
        after = key(page[-1])


class PageOperations(Database):
    """Lists that may be long."""

    def page_instances(
        self, tenant: str | None = None, *, after: InstanceName | None = None, limit: int
    ) -> list[InstanceOverview]:
        """List instances with what was ingested for them, sorted by name.

        Args:
            tenant: Only those of this tenant.
            after: Only those whose names sort after this one.
            limit: Maximum length of the list.

        Returns:
            The instances.
        """
        i = t.instances.c
        query = select(i.tenant, i.instance).order_by(i.tenant, i.instance).limit(limit)
        with self._read_transaction() as sql:
            names = [InstanceName(*row) for row in sql.execute(query.where(*_after(i, tenant, after)))]
            return _summarize_instances(sql, names)

    def get_instance(self, instance: InstanceName) -> InstanceOverview:
        """Return what was ingested for an instance.

        Raises:
            NotFound: The instance does not exist.
        """
        with self._read_transaction() as sql:
            rows.require_instance(sql, instance)
            return _summarize_instances(sql, [instance])[0]

    def page_skills(
        self, tenant: str | None = None, *, after: InstanceName | None = None, limit: int, max_versions: int
    ) -> list[SkillSummary]:
        """List the instances that have versions, with their channels, sorted by name.

        Args:
            tenant: Only those of this tenant.
            after: Only those whose names sort after this one.
            limit: Maximum length of the list.
            max_versions: Maximum number of versions of each, the newest ones.

        Returns:
            The skills.
        """
        v = t.versions.c
        query = select(v.tenant, v.instance, func.count().label("versions")).group_by(v.tenant, v.instance)
        query = query.where(*_after(v, tenant, after)).order_by(v.tenant, v.instance).limit(limit)
        with self._read_transaction() as sql:
            counts = {InstanceName(row.tenant, row.instance): int(row.versions) for row in sql.execute(query)}
            return _summarize(sql, counts, max_versions)

    def get_skill(self, instance: InstanceName, *, max_versions: int) -> SkillSummary:
        """Return channels and versions of an instance. It may have no version yet.

        Args:
            instance: The instance.
            max_versions: Maximum number of versions, the newest ones.

        Returns:
            The skill.

        Raises:
            NotFound: The instance does not exist.
        """
        with self._read_transaction() as sql:
            rows.require_instance(sql, instance)
            query = select(func.count()).select_from(t.versions).where(rows.in_instance(t.versions, instance))
            return _summarize(sql, {instance: sql.scalar(query) or 0}, max_versions)[0]


def _after(columns: Any, tenant: str | None, after: InstanceName | None) -> list[ColumnElement[bool]]:
    """Return the conditions of a page of instances: the tenant, and names after the last one."""
    conditions = [] if tenant is None else [columns.tenant == tenant]
    if after is not None:
        conditions.append(tuple_(columns.tenant, columns.instance) > tuple_(after.tenant, after.instance))
    return conditions


def _is_one_of(columns: Any, names: Sequence[InstanceName]) -> ColumnElement[bool]:
    """Return the condition that a row belongs to one of some instances, which are next to each other by name.

    The range is one comparison for the database, however many instances there are.
    """
    if not names:
        return false()
    instance = tuple_(columns.tenant, columns.instance)
    return and_(instance >= tuple_(*names[0]), instance <= tuple_(*names[-1]))


def _channels(
    sql: Connection, names: Sequence[InstanceName]
) -> defaultdict[InstanceName, dict[str, tuple[str, float]]]:
    """Return digest and share of the channels of some instances, by channel name."""
    c = t.channels.c
    query = select(c.tenant, c.instance, c.name, c.digest, c.share).where(_is_one_of(c, names)).order_by(c.name)
    found = defaultdict[InstanceName, dict[str, tuple[str, float]]](dict)
    for row in sql.execute(query):
        found[InstanceName(row.tenant, row.instance)][row.name] = (row.digest, row.share)
    return found


def _summarize_instances(sql: Connection, names: Sequence[InstanceName]) -> list[InstanceOverview]:
    """Return what was ingested for instances that are next to each other by name."""
    b = t.batches.c
    query = select(b.tenant, b.instance, func.count().label("batches"), func.sum(b.trajectories).label("trajectories"))
    query = query.where(_is_one_of(b, names)).group_by(b.tenant, b.instance)
    counts = {InstanceName(row.tenant, row.instance): row for row in sql.execute(query)}
    channels, bases = _channels(sql, names), rows.load_instance_bases(sql, _is_one_of(t.instances.c, names))
    return [
        InstanceOverview(
            instance=name,
            batches=counts[name].batches if name in counts else 0,
            trajectories=int(counts[name].trajectories) if name in counts else 0,
            prod=channels[name][PROD][0] if PROD in channels[name] else None,
            base=bases[name],
        )
        for name in names
    ]


def _summarize(sql: Connection, counts: dict[InstanceName, int], max_versions: int) -> list[SkillSummary]:
    """Return the skills of instances that are next to each other by name, and whose numbers of versions are known."""
    names, v = list(counts), t.versions.c
    newest_first = (v.created_at.desc(), v.digest)
    position = func.row_number().over(partition_by=(v.tenant, v.instance), order_by=newest_first).label("position")
    ranked = select(t.versions, position).where(_is_one_of(v, names)).subquery()
    query = select(*(ranked.c[column.name] for column in v)).where(ranked.c.position <= max_versions)
    versions = defaultdict[InstanceName, list[Version]](list)
    for row in sql.execute(query.order_by(ranked.c.tenant, ranked.c.instance, ranked.c.position)):
        version = rows.to_version(row)
        versions[version.instance].append(version)
    channels = _channels(sql, names)
    return [
        SkillSummary(
            instance=name,
            channels={channel: digest for channel, (digest, _) in channels[name].items()},
            shares={channel: share for channel, (_, share) in channels[name].items() if share > 0},
            versions=versions[name],
            version_count=counts[name],
        )
        for name in names
    ]
