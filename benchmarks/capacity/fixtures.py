"""What the capacity benchmark serves: adapters in a store, as Looper publishes them and as its peers want them.

All of them have one store, an S3 endpoint over folders (``s3``). Weights are alike for every ``DISTINCT``-th adapter,
so that thousands fit on a disk; whoever loads them reads and checks them all the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from looper.benchmarks.capacity import random_adapters as adapters
from looper.jobs.basemodel import revision
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.adapters.files import CONFIG, MANIFEST, WEIGHTS
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import ConsolidationState, GateVerdict, QueueStage, Recipe, Scores
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key

DISTINCT = 64
SECOND = 1_000_000
"""Added to the number of a second version's consolidation."""
TENANT = "capacity"
SCORES = Scores(accuracy=None, loss=1.0, actions=0, tokens=1)
VERDICT = GateVerdict(passed=True, reason="made for a benchmark", candidate=SCORES, current=SCORES)


@dataclass(frozen=True)
class CapacityFixtures:
    """A folder with all of it."""

    folder: Path
    model_dir: Path
    base: str

    @property
    def buckets(self) -> Path:
        """What the S3 endpoint serves: ``looper`` and ``peers``."""
        return self.folder / "buckets"

    @property
    def key(self) -> str:
        return (self.folder / "key").read_text()

    def settings(self, s3: str, **serve: object) -> Settings:
        """Looper's, with its store at the S3 endpoint ``s3``."""
        return load_settings(
            home=self.folder / "home",
            base=self.base,
            store={"url": "s3://looper", "endpoint_url": s3},
            serve={"port": 0, **serve},
        )

    def prepare(self, count: int) -> None:
        """Make what is missing of the first ``count`` adapters."""
        settings = load_settings(home=self.folder / "home", base=self.base)
        catalog = Catalog.open(settings)
        if TENANT not in catalog.tenants():
            catalog.create_tenant(TENANT)
            (self.folder / "key").write_text(issue_key(catalog, TENANT))
        there = len(catalog.skill_names(TENANT, after=None, limit=count))
        layers = adapters.shapes(self.model_dir)
        config = adapters.config(layers, self.base)
        (self.folder / "weights").mkdir(exist_ok=True)
        for number in range(there, count):
            source = self.folder / "weights" / str(number % DISTINCT)
            if not source.exists():
                source.write_bytes(adapters.weights(layers, number))
            self._publish(catalog, number, AdapterFiles(source.read_bytes(), config, self._manifest(number)), source)
        catalog.close()

    def renew(self, catalog: Catalog, number: int) -> tuple[str, str]:
        """The digests of the instance's first version, and of a second that ``prod`` points to from now on.

        The second has another's weights.
        """
        versions = [version.digest for version in catalog.versions(instance(number))]
        if len(versions) == 1:
            layers = adapters.shapes(self.model_dir)
            source = self.folder / "weights" / str((number + 1) % DISTINCT)
            files = AdapterFiles(
                source.read_bytes(), adapters.config(layers, self.base), self._manifest(number + SECOND)
            )
            self._publish(catalog, number, files, source)
            versions = [files.digest, *versions]
        return versions[-1], versions[0]

    def _manifest(self, number: int) -> bytes:
        return Manifest(
            instance=str(instance(number)),
            base=self.base,
            base_revision=revision(self.model_dir),
            parent=None,
            consolidation=f"{number:032x}",
            training_data=(),
            recipe=Recipe(rank=adapters.RANK),
            verdict=VERDICT,
            libraries={},
        ).to_bytes()

    def _publish(self, catalog: Catalog, number: int, files: AdapterFiles, weights: Path) -> None:
        """As a consolidation publishes it, but that the weights are a link."""
        digest, name = files.digest, instance(number)
        ours = self.buckets / "looper" / keys.adapter(TENANT, digest, WEIGHTS)
        for folder in (ours.parent, self.buckets / "peers" / peer_name(number)):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / WEIGHTS).exists():
                (folder / WEIGHTS).hardlink_to(weights)
            (folder / CONFIG).write_bytes(files.config)
        (ours.parent / MANIFEST).write_bytes(files.manifest)
        catalog.ensure_instance(name)
        catalog.add_batch(name, digest[:32], source="benchmark", trajectories=1)
        job = catalog.submit(name, base=self.base, recipe=Recipe(rank=adapters.RANK))
        catalog.claim("benchmark", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        for state in (ConsolidationState.SYNTHESISING, ConsolidationState.TRAINING, ConsolidationState.EVALUATING):
            catalog.advance(job.id, "benchmark", state)
        revised = json.loads(files.manifest)["base_revision"]
        catalog.publish(job.id, "benchmark", digest=digest, verdict=VERDICT, base_revision=revised)


def instance(number: int) -> InstanceName:
    """Sorts as the numbers do, the most popular first."""
    return InstanceName(TENANT, f"agent-{number:05}")


def peer_name(number: int) -> str:
    """What peers, who know no tenants, call the same adapter."""
    return f"adapter-{number:05}"
