"""Skills whose every version generates a token of its own, and what is known about them while they change."""

import random
import threading
import time
from dataclasses import dataclass, field

from transformers import AutoTokenizer

from looper.platform.domain.names import InstanceName
from tests.chaos.cluster import ChaosCluster
from tests.serve.marks import distinct_tokens, single_token_adapter
from tests.serve.published import publish_version

REVOCATION_BOUND_S = 60.0
"""A version is served to no request that was sent this long after its revocation was confirmed, in seconds."""

MARK_TOKENS = 3
"""Tokens of each answer whose text is checked."""


@dataclass
class MarkedSkill:
    """A skill with several versions. Operations change it while tenants use it, so it has a lock."""

    name: InstanceName
    text_by_digest: dict[str, str]
    """What each version generates, by digest, oldest version first."""
    revoked_at: dict[str, float] = field(default_factory=dict)
    """When a revocation was confirmed, by digest, on the monotonic clock."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def usable(self) -> list[str]:
        """Digests of the versions that nobody has tried to revoke."""
        return [digest for digest in self.text_by_digest if digest not in self.revoked_at]

    def find_error(self, digest: str, text: str, sent_at: float) -> str | None:
        """Check one answer.

        Args:
            digest: The version that answered, as the response's header says.
            text: The text of the answer, or its beginning.
            sent_at: When the request was sent, on the monotonic clock.

        Returns:
            What is wrong, None if nothing is.
        """
        if digest not in self.text_by_digest:
            return f"{self.name} was answered by a version of another skill: {digest}"
        expected = MARK_TOKENS * self.text_by_digest[digest]
        if not expected.startswith(text):
            return f"{self.name} at {digest[:8]} answered {text!r} instead of {expected!r}"
        revoked_at = self.revoked_at.get(digest)
        if revoked_at is not None and sent_at > revoked_at + REVOCATION_BOUND_S:
            return (
                f"{self.name} was answered by {digest[:8]} {time.monotonic() - revoked_at:.0f} s after its revocation"
            )
        return None


def publish_skills(cluster: ChaosCluster, tenants: list[str], skills: int, versions: int) -> list[MarkedSkill]:
    """Publish marked skills, before the cluster's queue worker runs.

    Args:
        cluster: The cluster, not started.
        tenants: Names of the tenants.
        skills: Number of skills of each tenant.
        versions: Number of versions of each skill.

    Returns:
        The skills of all tenants.
    """
    tokenizer = AutoTokenizer.from_pretrained(cluster.base)
    tokens = iter(random.Random(0).sample(distinct_tokens(cluster.base), len(tenants) * skills * versions))
    published = []
    for name in (InstanceName(tenant, f"skill-{number}") for tenant in tenants for number in range(skills)):
        texts = {}
        for token in (next(tokens) for _ in range(versions)):
            files = single_token_adapter(cluster.base, name, token)
            texts[publish_version(cluster.catalog, cluster.store, name, files)] = tokenizer.decode([token])
        published.append(MarkedSkill(name, texts))
    return published
