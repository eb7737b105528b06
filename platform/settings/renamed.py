"""Old names of settings. Someone who uses one, in the file or as a variable, is told the new name.

``sources`` reads this table when it refuses an unknown name.
"""

from collections.abc import Iterator, Mapping

from looper.platform.domain.renamed import RENAMED_RECIPE_FIELDS

_POOL_FIELDS = {
    "slots": "max_loras",
    "host_adapters": "max_cpu_loras",
    "disk_adapters": "max_disk_loras",
    "slots_gib": "loras_gib",
    "host_gib": "cpu_loras_gib",
    "disk_gib": "disk_loras_gib",
}
_BY_SECTION: Mapping[str, Mapping[str, str]] = {
    "store": {"retries": "max_retries"},
    "synthesis": {"without": "disabled_stages"},
    "synthesis.model": {"attempts": "max_attempts", "concurrency": "max_concurrency"},
    "consolidation": {
        "cohort": "cohort_size",
        "trainers": "max_trainers",
        "workers": "num_workers",
        "idle_s": "idle_timeout_s",
        "checkpoint_s": "checkpoint_interval_s",
        "attempts": "max_attempts",
        "per_tenant": "max_concurrent_per_tenant",
    },
    "consolidation.recipe": RENAMED_RECIPE_FIELDS,
    "serve": {**_POOL_FIELDS, "adapters": "expected_adapters", "requests_at_once": "max_concurrent_requests"},
    "serve.pools[]": _POOL_FIELDS,
}


def _paths() -> Iterator[tuple[str, str]]:
    for section, names in _BY_SECTION.items():
        for old, new in names.items():
            yield f"{section}.{old}", f"{section}.{new}"


RENAMED: Mapping[str, str] = dict(_paths())
"""New path of a setting by its old path."""
