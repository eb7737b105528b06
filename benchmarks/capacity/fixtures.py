"""The adapters of the capacity benchmark, in an object store: as Looper publishes them and as its peers expect them.

All peers use one object store, an S3 server over folders (``peers.s3_server``). Every ``DISTINCT_WEIGHTS``-th adapter
has the same weights, so that thousands of adapters fit on a disk; a server still reads and checks each of them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from looper.benchmarks.capacity import random_adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.catalog import Catalog
from looper.platform.domain.adapter_digest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key

DISTINCT_WEIGHTS = 64
"""Number of different weight files."""
SECOND_VERSION_OFFSET = 1_000_000
"""Added to an adapter's number for the consolidation of its second version."""
TENANT = "capacity"
"""The tenant of all adapters."""
SCORES = Scores(accuracy=None, loss=1.0, actions=0, tokens=1)
"""Scores of all versions."""
VERDICT = GateVerdict(passed=True, reason="made for a benchmark", candidate=SCORES, current=SCORES)
"""Verdict of all versions."""


@dataclass(frozen=True)
class CapacityFixtures:
    """A folder with the adapters, the catalog and the API key."""

    folder: Path
    """The folder."""
    model_dir: Path
    """Folder of the base model."""
    base: str
    """Name of the base model."""

    @property
    def buckets(self) -> Path:
        """Folder that the S3 server serves: it has the buckets ``looper`` and ``peers``."""
        return self.folder / "buckets"

    @property
    def api_key(self) -> str:
        """API key of the tenant."""
        return (self.folder / "key").read_text()

    def create_settings(self, s3_url: str, **serve: object) -> Settings:
        """Create Looper's settings.

        Args:
            s3_url: URL of the S3 server.
            **serve: Settings of serving.

        Returns:
            The settings.
        """
        return load_settings(
            home=self.folder / "home",
            base=self.base,
            store={"url": "s3://looper", "endpoint_url": s3_url},
            serve={"port": 0, **serve},
        )

    def ensure_adapters(self, count: int) -> None:
        """Publish those of the first adapters that are missing.

        Args:
            count: Number of adapters.
        """
        settings = load_settings(home=self.folder / "home", base=self.base)
        catalog = Catalog.open(settings)
        if TENANT not in catalog.list_tenants():
            catalog.create_tenant(TENANT)
            (self.folder / "key").write_text(issue_key(catalog, TENANT))
        existing = len(catalog.list_skills(TENANT, after=None, limit=count))
        layers = random_adapters.linear_layer_shapes(self.model_dir)
        config = random_adapters.adapter_config(layers, self.base)
        (self.folder / "weights").mkdir(exist_ok=True)
        for number in range(existing, count):
            source = self.folder / "weights" / str(number % DISTINCT_WEIGHTS)
            if not source.exists():
                source.write_bytes(random_adapters.random_weights(layers, number))
            self._publish(catalog, number, AdapterFiles(source.read_bytes(), config, self._manifest(number)), source)
        catalog.close()

    def ensure_second_version(self, catalog: Catalog, number: int) -> tuple[str, str]:
        """Publish a second version of an adapter with other weights, unless there is one; ``prod`` then points to it.

        Args:
            catalog: The catalog.
            number: Number of the adapter.

        Returns:
            The digests of the first and of the second version.
        """
        versions = [version.digest for version in catalog.list_versions(instance_name(number))]
        if len(versions) == 1:
            layers = random_adapters.linear_layer_shapes(self.model_dir)
            source = self.folder / "weights" / str((number + 1) % DISTINCT_WEIGHTS)
            files = AdapterFiles(
                source.read_bytes(),
                random_adapters.adapter_config(layers, self.base),
                self._manifest(number + SECOND_VERSION_OFFSET),
            )
            self._publish(catalog, number, files, source)
            versions = [files.digest, *versions]
        return versions[-1], versions[0]

    def _manifest(self, number: int) -> bytes:
        return Manifest(
            instance=str(instance_name(number)),
            base=self.base,
            base_revision=read_base_revision(self.model_dir),
            parent=None,
            consolidation=f"{number:032x}",
            training_data=(),
            recipe=Recipe(rank=random_adapters.RANK),
            verdict=VERDICT,
            libraries={},
        ).to_bytes()

    def _publish(self, catalog: Catalog, number: int, files: AdapterFiles, weights: Path) -> None:
        """Publish an adapter as a consolidation does, except that the weights are a hard link."""
        digest, name = files.digest, instance_name(number)
        looper_file = self.buckets / "looper" / keys.adapter(TENANT, digest, WEIGHTS_FILE)
        for folder in (looper_file.parent, self.buckets / "peers" / peer_adapter_name(number)):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / WEIGHTS_FILE).exists():
                (folder / WEIGHTS_FILE).hardlink_to(weights)
            (folder / CONFIG_FILE).write_bytes(files.config)
        (looper_file.parent / MANIFEST_FILE).write_bytes(files.manifest)
        catalog.ensure_instance(name)
        catalog.add_batch(name, digest[:32], source="benchmark", trajectories=1)
        job = catalog.submit(name, base=self.base, recipe=Recipe(rank=random_adapters.RANK))
        catalog.claim("benchmark", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        for state in (ConsolidationState.SYNTHESISING, ConsolidationState.TRAINING, ConsolidationState.EVALUATING):
            catalog.advance(job.id, "benchmark", state)
        base_revision = json.loads(files.manifest)["base_revision"]
        catalog.publish(job.id, "benchmark", digest=digest, verdict=VERDICT, base_revision=base_revision)


def instance_name(number: int) -> InstanceName:
    """Return Looper's name of an adapter; the names sort like the numbers, the most popular first.

    Args:
        number: Number of the adapter.

    Returns:
        The name of the instance.
    """
    return InstanceName(TENANT, f"agent-{number:05}")


def peer_adapter_name(number: int) -> str:
    """Return the name of the same adapter for the other peers, which have no tenants.

    Args:
        number: Number of the adapter.

    Returns:
        The name.
    """
    return f"adapter-{number:05}"
